"""Fixtures of the local transport: its run folder, the socket of the role, and a scripted service over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.local.address import socket_path
from adapters.settings import Settings, load_settings
from tests.support.transports import (  # noqa: F401  # fixtures
    ROLE,
    caller,
    clock,
    echoing,
    long_timeouts,
    transport,
)


@pytest.fixture
def broker_settings(tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return load_settings(environment={"ES_HOME": str(home)})


@pytest.fixture
def run(broker_settings: Settings) -> Path:
    return broker_settings.run


@pytest.fixture
def path(run: Path) -> Path:
    return socket_path(run, ROLE)
