"""The event store contract, reading: one stream, all streams, names of streams, and followers.

Positions are opaque: a test may only know that they grow. A real server may hold other events, so every test has
its own streams and compares positions after the head that it started from.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from domain.kernel.errors import PartUnavailable, StoreBehind, VersionConflict
from domain.kernel.events import NO_STREAM, Recorded
from domain.kernel.ports.event_store import Append, Appended, CaughtUp, EventStore
from tests.support.builders import a_stream, an_event, append, some_events, stored
from tests.support.waiting import DEADLINE_S, assert_within, before

IDLE_CAUGHT_UPS_PER_S = 5

# --- one stream ------------------------------------------------------------------------------


@pytest.fixture
def four(store: EventStore) -> Callable[..., list[int]]:
    """Reads versions of a stream with four events."""
    stream = a_stream()
    append(store, stream, NO_STREAM, some_events(4))
    return lambda *from_version, **how: [e.version for e in store.read_stream(stream, *from_version, **how)]


def test_a_stream_is_read_in_order_of_version(four: Callable[..., list[int]]) -> None:
    assert four() == [0, 1, 2, 3]
    assert four(2) == [2, 3]
    assert four(4) == []
    assert four(1, limit=2) == [1, 2]
    assert four(limit=0) == []


def test_backwards_a_stream_is_read_from_the_last_version_down(four: Callable[..., list[int]]) -> None:
    assert four(backwards=True) == [3, 2, 1, 0]
    assert four(2, backwards=True) == [3, 2]
    assert four(backwards=True, limit=1) == [3]
    assert four(1, backwards=True, limit=2) == [3, 2]


def test_a_missing_stream_yields_nothing(store: EventStore) -> None:
    assert list(store.read_stream(a_stream())) == []
    assert list(store.read_stream(a_stream(), 3, backwards=True, limit=1)) == []


def test_a_stream_does_not_contain_events_of_a_longer_name(store: EventStore) -> None:
    stream = a_stream()
    mine, other = some_events(1), some_events(2)
    append(store, stream, NO_STREAM, mine)
    append(store, stream + "0", NO_STREAM, other)

    assert stored(store, stream) == mine


# --- all streams -----------------------------------------------------------------------------


def test_all_events_are_read_in_commit_order_with_growing_positions(store: EventStore) -> None:
    kind, head = a_stream("kind"), store.head()
    order = [f"{kind}-{number % 3}" for number in range(12)]
    versions = Counter[str]()
    for stream in order:
        append(store, stream, versions[stream] - 1, some_events(1))
        versions[stream] += 1

    events = list(store.read_all(head, 1000, prefixes=[kind]))

    assert [event.stream for event in events] == order
    assert all(a.position < b.position for a, b in itertools.pairwise(events))


def test_reading_starts_after_the_position_and_stops_at_the_limit(store: EventStore) -> None:
    kind, head = a_stream("kind"), store.head()
    append(store, kind, NO_STREAM, some_events(6))
    everything = list(store.read_all(head, 1000, prefixes=[kind]))

    after_third = store.read_all(everything[2].position, 2, prefixes=[kind])

    assert len(everything) == 6
    assert list(after_third) == everything[3:5]
    assert list(store.read_all(head, 0, prefixes=[kind])) == []
    assert list(store.read_all(everything[-1].position, 1000, prefixes=[kind])) == []


def test_reading_in_steps_yields_the_same_events_as_reading_at_once(store: EventStore) -> None:
    kind, head = a_stream("kind"), store.head()
    store.append([Append(f"{kind}-{number}", NO_STREAM, some_events(9)) for number in range(300)])

    position, in_steps = head, list[Recorded]()
    for _ in range(2700 // 333 + 1):
        step = list(store.read_all(position, 333, prefixes=[kind]))
        in_steps += step
        position = step[-1].position

    assert in_steps == list(store.read_all(head, 1_000_000, prefixes=[kind]))
    assert len(in_steps) == 2700


def test_a_limit_is_exact_for_any_page_size_of_the_store(store: EventStore) -> None:
    kind, head = a_stream("kind"), store.head()
    store.append([Append(f"{kind}-{number}", NO_STREAM, some_events(10)) for number in range(250)])

    counts = [
        len(list(store.read_all(head, limit, prefixes=[kind]))) for limit in (999, 1000, 1001, 2400, 9999)
    ]

    assert counts == [999, 1000, 1001, 2400, 2500]


def test_prefixes_choose_the_streams_whose_names_start_with_them(store: EventStore) -> None:
    root, head = a_stream("root"), store.head()
    for name in ("a1", "a2", "b1", "ab", "A1", "b%", "b_2", "c☃", "c", "d.", "dd", "d("):
        append(store, f"{root}-{name}", NO_STREAM, some_events(1))

    def found(*prefixes: str) -> list[str]:
        wanted = [f"{root}-{prefix}" for prefix in prefixes]
        return [e.stream.removeprefix(f"{root}-") for e in store.read_all(head, 1000, prefixes=wanted)]

    assert found("a") == ["a1", "a2", "ab"]
    assert found("a", "b1") == ["a1", "a2", "b1", "ab"]
    assert found("b%") == ["b%"], "not a pattern"
    assert found("b_") == ["b_2"], "not a pattern"
    assert found("d.") == ["d."], "not a pattern"
    assert found("d(") == ["d("], "not a pattern"
    assert found("c☃") == ["c☃"]
    assert found("z") == []
    assert list(store.read_all(head, 1000, prefixes=[])) == [], "no prefix, no stream"


def test_without_prefixes_every_stream_is_read(store: EventStore) -> None:
    first, second, head = a_stream(), a_stream(), store.head()
    append(store, first, NO_STREAM, some_events(2))
    append(store, second, NO_STREAM, some_events(1))

    streams = Counter(event.stream for event in store.read_all(head, 1000))

    assert (streams[first], streams[second]) == (2, 1)


# --- head, names and close -------------------------------------------------------------------


def test_the_head_of_an_empty_store_is_zero(fresh_store: EventStore) -> None:
    assert fresh_store.head() == 0
    assert list(fresh_store.read_all(0, 10)) == []
    assert fresh_store.streams() == []


def test_the_head_is_the_position_of_the_last_committed_event(store: EventStore) -> None:
    before_append = store.head()

    result = append(store, a_stream(), NO_STREAM, some_events(3))

    assert isinstance(result, Appended)
    assert before_append < result.position <= store.head()
    assert list(store.read_all(store.head(), 10)) == []


def test_streams_are_listed_by_name_with_their_last_version(store: EventStore) -> None:
    root = a_stream("root")
    for name, count in (("b", 2), ("c", 1), ("a", 3), ("B", 1), ("☃", 1)):
        append(store, f"{root}-{name}", NO_STREAM, some_events(count))
    append(store, f"{root}-c", 0, some_events(1))

    def listed(*, after: str = "", limit: int = 100) -> list[tuple[str, int]]:
        found = store.streams(after=after, prefix=root, limit=limit)
        return [(name.removeprefix(f"{root}-"), version) for name, version in found]

    assert listed() == [("B", 0), ("a", 2), ("b", 1), ("c", 1), ("☃", 0)]
    assert listed(limit=2) == [("B", 0), ("a", 2)]
    assert listed(after=f"{root}-a") == [("b", 1), ("c", 1), ("☃", 0)]
    assert listed(after=f"{root}-a", limit=1) == [("b", 1)]
    assert listed(after=f"{root}-☃") == []


def test_a_second_close_does_nothing(store: EventStore) -> None:
    append(store, a_stream(), NO_STREAM, some_events(1))

    store.close()

    assert store.close() is None  # type: ignore[func-returns-value]


def test_a_closed_store_is_unavailable(open_again: Callable[[], EventStore]) -> None:
    store = open_again()
    store.close()

    with pytest.raises(PartUnavailable):
        append(store, a_stream(), NO_STREAM, some_events(1))
    with pytest.raises(PartUnavailable):
        store.head()
    with pytest.raises(PartUnavailable):
        list(store.read_all(0, 1))


def test_two_open_stores_see_each_others_events_at_once(
    store: EventStore, open_again: Callable[[], EventStore]
) -> None:
    other, stream = open_again(), a_stream()

    result = append(store, stream, NO_STREAM, some_events(2))

    assert isinstance(result, Appended)
    assert [event.version for event in other.read_stream(stream)] == [0, 1]
    assert other.head() >= result.position
    assert append(other, stream, NO_STREAM, some_events(1)) == VersionConflict(stream, NO_STREAM, 1)


def test_events_survive_closing_and_reopening(open_again: Callable[[], EventStore]) -> None:
    stream, events = a_stream(), some_events(3)
    with closing(open_again()) as first:
        append(first, stream, NO_STREAM, events)

    second = open_again()

    assert stored(second, stream) == events
    assert isinstance(append(second, stream, 2, some_events(1)), Appended)


def test_a_retry_on_another_connection_settles_an_unknown_outcome(
    open_again: Callable[[], EventStore],
) -> None:
    stream, event = a_stream(), an_event()
    lost_result = append(open_again(), stream, NO_STREAM, [event])

    retried = append(open_again(), stream, NO_STREAM, [event])

    assert retried == lost_result
    assert stored(open_again(), stream) == [event]


# --- follow ----------------------------------------------------------------------------------


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
