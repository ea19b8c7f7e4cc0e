"""Accounts with the erasure process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from adapters.log import Log
from tests.support.erasures import Erasures


@pytest.fixture
def erasures(tmp_path: Path, log: Log) -> Iterator[Erasures]:
    with closing(Erasures(tmp_path / "accounts", log)) as opened:
        yield opened
