"""Fixtures for tests of several roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from adapters import wiring
from adapters.log import Log, open_log
from adapters.settings import Settings, load_settings
from adapters.sqlite.read_model import SqliteReadModel
from domain.kernel.ports.read_model import ReadModel
from tests.support.accounts import Accounts
from tests.support.read_side import ReadSide


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    """Accounts over an event store in memory."""
    with closing(Accounts(tmp_path / "accounts")) as opened:
        yield opened


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return open_log(f"log-of-{tmp_path}", tmp_path / "log" / "test.log")


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    """The settings of a home, which is created."""

    def of(home: str = "home", **parts: str) -> Settings:
        settings = load_settings(environment={"ES_HOME": str(tmp_path / home), **parts})
        wiring.prepare_home(settings)
        return settings

    return of


@pytest.fixture
def log_text(tmp_path: Path) -> Callable[[], str]:
    return lambda: (tmp_path / "log" / "test.log").read_text()


@pytest.fixture
def read_model(tmp_path: Path) -> Iterator[SqliteReadModel]:
    with closing(SqliteReadModel(tmp_path / "read.db")) as opened:
        yield opened


@pytest.fixture
def read_side(tmp_path: Path, read_model: ReadModel, log: Log) -> Iterator[ReadSide]:
    with closing(ReadSide(tmp_path / "accounts", read_model, log)) as opened:
        yield opened
