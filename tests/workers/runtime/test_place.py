"""The place of a worker: its home, which can go away at any moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.settings import load_settings
from domain.kernel.errors import PartUnavailable
from workers.runtime.worker import _Place


def test_a_home_that_is_removed_while_its_worker_starts_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    settings = load_settings(home_flag=str(home), environment={})
    monkeypatch.setattr("adapters.wiring.prepare_home", lambda _: None)  # it is gone again

    with pytest.raises(PartUnavailable, match=f"{home} was moved or removed"):
        _Place(settings, "ids", None)
