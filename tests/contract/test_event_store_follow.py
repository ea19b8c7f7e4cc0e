"""The event store contract: followers. Positions are opaque, as in the tests of reading."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from domain.kernel.errors import StoreBehind
from domain.kernel.events import NO_STREAM, Recorded
from domain.kernel.ports.event_store import Appended, CaughtUp, EventStore
from tests.support.builders import a_stream, an_event, append, some_events
from tests.support.waiting import DEADLINE_S, assert_within, before

IDLE_CAUGHT_UPS_PER_S = 5


def test_a_follower_yields_stored_events_and_then_caught_up(store: EventStore) -> None:
    kind, head = a_stream("kind"), store.head()
    events = some_events(3)
    append(store, kind, NO_STREAM, events)

    seen = list[Recorded]()
    for item in store.follow(head, stopped=before(DEADLINE_S), prefixes=[kind]):
        if isinstance(item, CaughtUp):
            break
        seen.append(item)

    assert [event.event_id for event in seen] == [event.event_id for event in events]
    assert item.position >= seen[-1].position


@pytest.mark.parametrize("is_late", [False, True], ids=["stored before", "appended later"])
def test_a_follower_of_types_yields_only_events_whose_type_starts_so(
    store: EventStore, is_late: bool
) -> None:
    kind, head = a_stream("kind"), store.head()
    types = [
        "shelf-opened.v1",
        "shelf-closed.v1",
        "shelf-closed.v12",
        "shelf.closed",
        "Shelf-closed",
        "shelf-close",
    ]
    events = [an_event(type_) for type_ in types]
    following = store.follow(
        head, stopped=before(DEADLINE_S), prefixes=[kind], types=["shelf-closed", "shelf.c"]
    )
    if is_late:
        assert isinstance(next(following), CaughtUp)
    append(store, kind, NO_STREAM, events)
    append(store, a_stream("other"), NO_STREAM, [an_event("shelf-closed.v1")])
    end = store.head()

    seen = list[str]()
    for item in following:
        if isinstance(item, CaughtUp) and item.position >= end:
            break
        if isinstance(item, Recorded):
            seen.append(item.type)

    assert seen == types[1:4]


def test_a_follower_of_no_type_yields_no_event_and_catches_up(store: EventStore) -> None:
    head = store.head()
    append(store, a_stream(), NO_STREAM, some_events(1))

    first = next(store.follow(head, stopped=before(DEADLINE_S), types=[]))

    assert isinstance(first, CaughtUp)
    assert first.position > head


def test_a_follower_of_types_reads_every_stream_without_prefixes(store: EventStore) -> None:
    one, two, head = a_stream(), a_stream(), store.head()
    rare = f"rare-{a_stream()}"
    append(store, one, NO_STREAM, [an_event(rare), an_event()])
    append(store, two, NO_STREAM, [an_event(), an_event(rare)])

    following = store.follow(head, stopped=before(DEADLINE_S), types=[rare])
    seen = [item.stream for item in itertools.islice(following, 3) if isinstance(item, Recorded)]

    assert seen == [one, two]


def test_a_follower_yields_a_later_event_and_catches_up_again(store: EventStore) -> None:
    kind = a_stream("kind")
    following = store.follow(store.head(), stopped=before(DEADLINE_S), prefixes=[kind])
    assert isinstance(next(following), CaughtUp)
    late = an_event()

    append(store, kind, NO_STREAM, [late])

    arrived = next(item for item in following if isinstance(item, Recorded))
    assert arrived.event_id == late.event_id
    caught_up = next(following)
    assert isinstance(caught_up, CaughtUp)
    assert caught_up.position >= arrived.position


def test_caught_up_moves_past_events_of_other_prefixes(store: EventStore) -> None:
    head = store.head()
    append(store, a_stream("other"), NO_STREAM, some_events(3))

    first = next(store.follow(head, stopped=before(DEADLINE_S), prefixes=[a_stream("mine")]))

    assert isinstance(first, CaughtUp)
    assert first.position > head, "otherwise a follower of few streams reads the others after every restart"


def test_caught_up_never_comes_before_a_committed_event(store: EventStore) -> None:
    kind = a_stream("kind")
    positions = list[int]()
    following = store.follow(store.head(), stopped=before(DEADLINE_S), prefixes=[kind])
    for version in range(20):
        result = append(store, kind, version - 1, some_events(1))
        assert isinstance(result, Appended)
        item = next(following)
        while isinstance(item, CaughtUp) and item.position < result.position:
            item = next(following)  # it asked for the head before the append
        assert isinstance(item, Recorded)
        positions.append(item.position)

    assert positions == [event.position for event in store.read_stream(kind)]


def test_an_idle_follower_yields_caught_up_at_least_every_fifth_of_a_second(store: EventStore) -> None:
    def observe() -> None:
        items, done = list[Recorded | CaughtUp](), before(DEADLINE_S)
        following = store.follow(
            store.head(),
            stopped=lambda: len(items) >= IDLE_CAUGHT_UPS_PER_S or done(),
            prefixes=[a_stream("silent")],
        )
        items.extend(following)
        assert {type(item) for item in items} == {CaughtUp}

    assert_within(1.2, observe)


def test_a_follower_reports_a_store_that_went_back(store: EventStore) -> None:
    append(store, a_stream(), NO_STREAM, some_events(1))
    end = store.head()

    with pytest.raises(StoreBehind) as raised:
        list(store.follow(end + 1000, stopped=before(DEADLINE_S)))

    assert raised.value.seen == end + 1000


def test_an_idle_follower_ends_soon_after_it_is_stopped(store: EventStore) -> None:
    def stop_it() -> float:
        stop = threading.Event()
        following = store.follow(store.head(), stopped=stop.is_set, prefixes=[a_stream("silent")])
        with ThreadPoolExecutor(1) as pool:
            drained = pool.submit(lambda: sum(1 for _ in following))
            stopped_at = time.monotonic()
            stop.set()
            drained.result(timeout=DEADLINE_S)
        return time.monotonic() - stopped_at

    assert_within(1.0, stop_it)


def test_a_stopped_follower_ends_between_two_events(store: EventStore) -> None:
    kind, head = a_stream("kind"), store.head()
    append(store, kind, NO_STREAM, some_events(50))
    seen = list[Recorded | CaughtUp]()

    for item in store.follow(head, stopped=lambda: len(seen) >= 3, prefixes=[kind]):
        seen.append(item)

    assert [type(item) for item in seen] == [Recorded] * 3


def test_a_follower_stopped_from_the_start_yields_nothing(store: EventStore) -> None:
    head = store.head()
    append(store, a_stream(), NO_STREAM, some_events(1))

    assert list(store.follow(head, stopped=lambda: True)) == []
