"""Accounts whose queries run over a durable store."""

from __future__ import annotations

import pytest

from tests.support.accounts import Accounts
from tests.support.read_side import ReadSide


@pytest.fixture
def users(read_side: ReadSide) -> Accounts:
    """The accounts of the read side."""
    return read_side.accounts
