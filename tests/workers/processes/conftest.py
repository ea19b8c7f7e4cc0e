"""A bank with two purses of 100 each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.log import open_log
from tests.support.managing import Bank


@pytest.fixture
def new_bank(tmp_path: Path) -> Iterator[Callable[[], Bank]]:
    made: list[Bank] = []

    def make() -> Bank:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Bank(folder, open_log("test", tmp_path / "test.log")))
        for purse in (1, 2):
            made[-1].fill(purse)
        return made[-1]

    yield make
    for bank in made:
        bank.close()


@pytest.fixture
def bank(new_bank: Callable[[], Bank]) -> Bank:
    return new_bank()
