"""Positions are addresses of records: reads begin at any number, and a failure of the server is no answer about one."""

from __future__ import annotations

from uuid import uuid4

import pytest

from domain.kernel.errors import PartUnavailable
from domain.kernel.events import BEGINNING, NO_STREAM, EventData, Recorded
from domain.kernel.history import Fit, Mark
from domain.kernel.ports.event_store import EventStore
from tests.support.builders import a_stream, append, some_events
from tests.support.eventstoredb import OpenStore, Store, until_caught_up
from tests.support.node import Fault, Node, Point, always, once
from tests.support.node.log import Log


def filled(store: EventStore, count: int) -> list[Recorded]:
    append(store, a_stream(), NO_STREAM, some_events(count))
    return list(store.read_all(BEGINNING, count))


def mark_of(event: Recorded) -> Mark:
    return Mark(event.position, event.event_id)


def test_a_number_far_from_the_beginning_is_found_page_by_page(store: Store) -> None:
    events = filled(store, 1700)
    between = events[1500].position + 1

    assert list(store.read_all(between, 1000)) == events[1501:]
    following = store.follow(between, stopped=lambda: False)
    assert until_caught_up(following) == events[1501:]


def test_the_next_search_begins_where_the_last_one_ended(store: Store, node: Node) -> None:
    events = filled(store, 1700)

    def reads(number: int) -> int:
        before = node.calls["Read"]
        list(store.read_all(number, 1))
        return node.calls["Read"] - before

    assert reads(events[1600].position + 1) > reads(events[1601].position + 1)


def test_a_failure_of_the_server_does_not_make_another_history(store: Store, node: Node) -> None:
    (event,) = filled(store, 1)
    node.plan = once(Point.READ, Fault.BROKEN)

    assert store.fit(mark_of(event)) is Fit.SAME


def test_a_broken_server_is_unavailable_and_no_other_history(open_store: OpenStore, node: Node) -> None:
    store = open_store(settle_s=0.5)
    (event,) = filled(store, 1)
    node.plan = always(Fault.BROKEN, Point.READ)

    with pytest.raises(PartUnavailable):
        store.fit(mark_of(event))
    with pytest.raises(PartUnavailable):
        list(store.read_all(event.position, 1))


def test_a_mark_inside_a_record_is_of_another_history(store: Store) -> None:
    first, _ = filled(store, 2)

    assert store.fit(Mark(first.position + 1, uuid4())) is Fit.OTHER


def test_a_scavenged_event_is_absent(store: Store, node: Node) -> None:
    (event,) = filled(store, 1)
    node.log.delete(event.stream, 0)
    node.log.scavenge()

    assert store.fit(mark_of(event)) is Fit.ABSENT


def test_a_remembered_position_that_the_store_lost_is_forgotten(store: Store, node: Node) -> None:
    events = filled(store, 600)
    list(store.read_all(events[550].position + 1, 1))

    node.restore(Log())
    append(store, "another-stream", NO_STREAM, [EventData(uuid4(), "a.v1", b"{" + b" " * 999 + b"}", b"{}")])
    new = filled(store, 600)

    assert list(store.read_all(new[580].position + 1, 1)) == new[581:582]
