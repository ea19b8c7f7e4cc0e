"""The log of a worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.log import Log, open_log


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


@pytest.fixture
def log(log_file: Path) -> Log:
    return open_log(log_file.parent.name, log_file)
