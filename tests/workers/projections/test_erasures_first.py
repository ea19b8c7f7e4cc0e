"""Nothing personal is opened before the erasures of the store are listed in the vault: it may be a restored copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from adapters.log import Log
from adapters.wiring import keyring_of
from domain.kernel.errors import EsError, PartUnavailable
from domain.kernel.messages import LATER, Reply, Request
from tests.support.accounts import ADA, erase
from tests.support.parts import before_call
from tests.support.read_side import ReadSide
from workers.projections.erasures_first import ErasuresFirst, ErasuresNotListed
from workers.users import owed


class Start:
    """A worker at its start: the guard, and what it reports. Its vault and rows have forgotten the erasure of a user."""

    def __init__(self, read_side: ReadSide, log: Log) -> None:
        self.read_side = read_side
        self.user_id = read_side.a_user(ADA)
        read_side.project()
        read_side.done(erase(self.user_id))
        self.reports: list[EsError | None] = []
        self.log = log
        self.first = self.guard()

    def guard(self, **parts: Any) -> ErasuresFirst:
        own: dict[str, Any] = {"store": self.read_side.store, "vault": self.read_side.vault, **parts}
        listing = owed.Listing(
            **own, codec=self.read_side.codec, now_us=lambda: self.read_side.now_us, log=self.log
        )
        ticks: Iterator[float] = (10.0 * tick for tick in count())
        return ErasuresFirst(listing, log=self.log, report=self.reports.append, monotonic_s=ticks.__next__)

    def get(self) -> Reply:
        request = Request("users.get", {"user_id": str(self.user_id)})
        keyring = self.first.guarded(keyring_of(self.read_side.vault))
        return self.read_side.reply_to(request, keyring=keyring)


@pytest.fixture
def start(read_side: ReadSide, log: Log) -> Start:
    return Start(read_side, log)


def test_an_erased_user_is_not_opened_before_the_erasures_are_listed(start: Start) -> None:
    assert start.get() is LATER

    start.first.run(lambda: False)

    shown = start.get()
    assert isinstance(shown, dict)
    assert (shown["status"], shown["email"], shown["name"]) == ("erased", None, None)


def test_a_query_that_waits_too_long_says_why(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.projections.service.PATIENCE_S", 0.0)

    reply = start.get()

    assert isinstance(reply, ErasuresNotListed)
    assert "owed erasures are not listed yet" in str(reply)


def test_a_stop_in_between_does_not_count_as_listed(start: Start) -> None:
    start.first.run(lambda: True)

    assert start.get() is LATER


def test_an_outage_during_the_listing_is_the_answer_and_the_next_run_goes_on(start: Start) -> None:
    def fail() -> None:
        raise PartUnavailable("event store", "the connection was lost")

    start.first = start.guard(store=before_call(start.read_side.store, "read_all", fail))
    with pytest.raises(PartUnavailable):
        start.first.run(lambda: False)
    reply = start.get()
    assert isinstance(reply, PartUnavailable)
    assert "the connection was lost" in str(reply)

    start.first.run(lambda: False)

    shown = start.get()
    assert isinstance(shown, dict)
    assert shown["status"] == "erased"


def test_a_long_listing_is_reported_until_it_ends(
    start: Start, monkeypatch: pytest.MonkeyPatch, log_text: Callable[[], str]
) -> None:
    monkeypatch.setattr(owed, "BATCH_LIMIT", 1)

    start.first.run(lambda: False)

    *during, end = start.reports
    assert len(during) == 2
    assert "up to position 1 of 2" in str(during[0])
    assert end is None
    assert '"listing-erasures"' in log_text()
