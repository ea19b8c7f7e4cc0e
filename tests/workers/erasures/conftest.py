"""The erasure process over accounts."""

from __future__ import annotations

import pytest

from adapters.log import Log
from tests.support.accounts import Accounts
from tests.support.erasures import Erasures


@pytest.fixture
def erasures(accounts: Accounts, log: Log) -> Erasures:
    return Erasures(accounts, log)
