"""The deep check while a part is unavailable: it says so, and still compares the others."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from adapters import wiring
from adapters.settings import Settings, load_settings
from domain.kernel.errors import PartUnavailable
from tests.support.parts import replaced
from workers import deep_check
from workers.deep_check import Problems


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home whose parts exist and are empty."""
    settings = load_settings(environment={"ES_HOME": str(tmp_path / "home")})
    wiring.prepare_home(settings)
    for part in (
        wiring.open_store(settings.store),
        wiring.open_vault(settings),
        wiring.open_read_model(settings),
    ):
        part.close()
    return settings


@pytest.mark.parametrize(
    ("opener", "method", "part"),
    [
        ("open_store", "head", "event store"),
        ("open_vault", "subjects", "vault"),
        ("open_read_model", "generations", "read models"),
    ],
)
def test_an_outage_during_the_check_is_told_and_the_other_parts_are_compared(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, opener: str, method: str, part: str
) -> None:
    def outage(*_: object, **__: object) -> NoReturn:
        raise PartUnavailable(part, "it cannot be reached")

    real = getattr(wiring, opener)
    monkeypatch.setattr(wiring, opener, lambda given: replaced(real(given), **{method: outage}))
    problems = Problems()

    said = deep_check.compare(settings, problems, lambda _: None)

    assert [(name, code) for name, _, _, code in problems.listed()] == [(part, "unavailable")]
    assert said == "0 events, 0 users, 0 keys and 0 rows were compared"
