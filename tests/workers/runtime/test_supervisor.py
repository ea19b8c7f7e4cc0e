"""The supervisor survives its own failures: with it all workers of the home would end."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.local.caller import ask_once
from adapters.local.home_lock import HomeLock
from adapters.log import Log
from adapters.settings import load_settings
from adapters.wiring import prepare_home
from tests.support.transports import background
from tests.support.waiting import DEADLINE_S, eventually
from workers.runtime.supervisor import Supervisor


def test_a_failing_step_is_logged_once_and_ends_nothing(
    tmp_path: Path, log: Log, log_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[None] = []

    def look(_: Supervisor) -> None:
        failures.append(None)
        raise RuntimeError("no descriptor is left")

    monkeypatch.setattr(Supervisor, "_look", look)
    settings = load_settings(environment={"ES_HOME": str(tmp_path / "home")})
    prepare_home(settings)
    supervisor = Supervisor(settings, HomeLock(settings.home), instances={}, is_foreground=False, log=log)

    with background(supervisor.run, lambda: None) as running:
        eventually(lambda: len(failures) > 2, "it failed repeatedly")
        assert (
            ask_once(settings.run, "supervisor", "supervisor.status", {}, timeout_s=DEADLINE_S)["workers"]
            == []
        )
        supervisor.stop()
        assert running.result(DEADLINE_S) is True

    assert log_file.read_text().count("supervisor-step-failed") == 1
