"""The system id in EventStoreDB is an event like any other: it can be decoded, published and shown."""

from __future__ import annotations

import threading
from uuid import uuid4

import pytest

from adapters.wiring import open_codec
from domain.kernel.errors import Damaged
from domain.kernel.events import NO_STREAM
from domain.kernel.ports.event_store import Append
from domain.kernel.system import SYSTEM_STREAM, SystemClaimed
from tests.support.builders import a_stream, append, some_events
from tests.support.eventstoredb import Store
from tests.support.node import LOST_APPENDS, Fault, Node, Point, once
from tests.support.waiting import eventually


def test_a_claim_is_an_event_that_this_program_knows(store: Store) -> None:
    mine = store.claim_system(uuid4())

    (event,) = store.read_stream(SYSTEM_STREAM)
    codec = open_codec()
    assert codec.decode(event) == SystemClaimed(str(mine))
    assert codec.stored(event) == (SystemClaimed.type, {"system_id": str(mine)})
    assert codec.metadata(event).command_id == event.event_id
    assert store.found() == [SYSTEM_STREAM]


def test_a_repeated_claim_stores_no_second_event(store: Store) -> None:
    for _ in range(3):
        store.claim_system(uuid4())

    assert store.versions(SYSTEM_STREAM) == [0]


def test_after_a_claim_no_thread_waits_for_appends(store: Store) -> None:
    def receiving() -> set[int | None]:
        return {each.ident for each in threading.enumerate() if each.name == "eventstoredb-appends"}

    before = receiving()
    store.claim_system(uuid4())

    eventually(lambda: receiving() <= before, "its call has ended")
    append(store, a_stream(), NO_STREAM, some_events(1))
    assert not receiving() <= before, "another one is open"


@pytest.mark.parametrize(
    ("point", "fault"), [lost for lost in LOST_APPENDS if lost[1] in (Fault.UNAVAILABLE, Fault.BROKEN)]
)
def test_a_claim_with_an_unknown_outcome_is_settled(
    store: Store, node: Node, point: Point, fault: Fault
) -> None:
    mine = uuid4()
    node.plan = once(point, fault)

    assert store.claim_system(mine) == mine
    assert store.versions(SYSTEM_STREAM) == [0]


def test_an_event_that_is_no_claim_is_damage_and_no_free_store(store: Store) -> None:
    store.append([Append(SYSTEM_STREAM, NO_STREAM, some_events(1))])

    for call in (store.system_id, lambda: store.claim_system(uuid4())):
        with pytest.raises(Damaged, match=SYSTEM_STREAM):
            call()
