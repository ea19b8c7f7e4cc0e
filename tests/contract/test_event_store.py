"""The event store contract: a test for each sentence of `EventStore` in domain/kernel/ports, over every adapter.

Positions are opaque: they grow, and that is all a test may know. A real server may hold other people's
events, so every test has streams of its own and looks at positions after the head it started from.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.kernel.errors import DuplicateEventId, PartUnavailable, StoreBehind, VersionConflict
from domain.kernel.events import NO_STREAM, EventData, Recorded
from domain.kernel.ports.event_store import Append, Appended, CaughtUp, EventStore
from tests.support.builders import (
    DEADLINE_S,
    a_stream,
    an_event,
    append,
    assert_within,
    before,
    eventually,
    open_store,
    some_events,
    start_python,
    stored,
)

IDLE_CAUGHT_UPS_PER_S = 5
LONG_S = 5 * DEADLINE_S
"""For what is much work; a guard, not a measure."""
"""`follow` promises one at least every 0.2 s."""

OpenAgain = Callable[[], EventStore]


# --- append: whole items, exact versions, one result each ------------------------------------


def test_an_item_is_stored_with_all_its_events_in_order(store: EventStore) -> None:
    stream, events = a_stream(), some_events(5)

    result = append(store, stream, NO_STREAM, events)

    assert isinstance(result, Appended)
    assert stored(store, stream) == events


def test_a_stored_event_is_what_was_handed_in_and_where_it_went(store: EventStore) -> None:
    stream = a_stream("thing ☃ 'quoted\"")
    event = an_event("unusual ☃ type.v1", data='{"text":"☃ \\u0000","n":[1,2.5,null]}'.encode())
    before_us = time.time_ns() // 1000

    result = append(store, stream, NO_STREAM, [event])

    (found,) = store.read_stream(stream)
    assert isinstance(result, Appended)
    assert (found.stream, found.version, found.position) == (stream, 0, result.position)
    assert (found.event_id, found.type) == (event.event_id, event.type)
    assert (found.data, found.metadata) == (event.data, event.metadata)
    assert abs(found.recorded_at_us - before_us) < 60_000_000, "a time in UTC microseconds since 1970"


def test_the_answer_is_the_version_and_position_of_the_last_event(store: EventStore) -> None:
    stream = a_stream()

    first = append(store, stream, NO_STREAM, some_events(3))
    second = append(store, stream, 2, some_events(2))

    events = list(store.read_stream(stream))
    assert first == Appended(2, events[2].position)
    assert second == Appended(4, events[4].position)


def test_a_batch_is_answered_item_by_item_in_order(store: EventStore) -> None:
    streams = [a_stream() for _ in range(20)]

    results = store.append(
        [Append(stream, NO_STREAM, some_events(i + 1)) for i, stream in enumerate(streams)]
    )

    assert [result.version for result in results if isinstance(result, Appended)] == list(range(20))
    assert [len(stored(store, stream)) for stream in streams] == list(range(1, 21))


def test_an_empty_batch_is_answered_by_nothing(store: EventStore) -> None:
    head = store.head()

    assert store.append([]) == []
    assert store.head() == head


def test_an_item_of_many_events_is_stored_whole(store: EventStore) -> None:
    stream, events = a_stream(), some_events(1500)

    result = append(store, stream, NO_STREAM, events)

    assert isinstance(result, Appended)
    assert result.version == 1499
    assert stored(store, stream) == events


def test_an_event_of_a_megabyte_is_stored_whole(store: EventStore) -> None:
    stream, event = a_stream(), an_event(data=b'"%s"' % (b"x" * 1_000_000))

    append(store, stream, NO_STREAM, [event])

    assert stored(store, stream) == [event]


@pytest.mark.parametrize("expected", [NO_STREAM, 0, 2, 3, 1000])
def test_nothing_is_appended_at_another_version_than_the_expected(store: EventStore, expected: int) -> None:
    stream, events = a_stream(), some_events(2)  # at version 1
    append(store, stream, NO_STREAM, events)

    result = append(store, stream, expected, some_events(2))

    assert result == VersionConflict(stream, expected, actual=1)
    assert stored(store, stream) == events


@pytest.mark.parametrize("expected", [0, 1, 1000])
def test_a_conflict_on_a_missing_stream_says_so_and_makes_no_stream(store: EventStore, expected: int) -> None:
    stream = a_stream()

    result = append(store, stream, expected, some_events(1))

    assert result == VersionConflict(stream, expected, actual=NO_STREAM)
    assert stored(store, stream) == []


def test_an_items_failure_does_not_touch_its_neighbours(store: EventStore) -> None:
    taken, left, right = a_stream(), a_stream(), a_stream()
    append(store, taken, NO_STREAM, some_events(1))

    results = store.append(
        [
            Append(left, NO_STREAM, some_events(2)),
            Append(taken, NO_STREAM, some_events(2)),
            Append(right, NO_STREAM, some_events(2)),
        ]
    )

    assert [type(result) for result in results] == [Appended, VersionConflict, Appended]
    assert [len(stored(store, stream)) for stream in (left, taken, right)] == [2, 1, 2]


def test_items_are_applied_in_order_and_a_later_one_sees_the_earlier(store: EventStore) -> None:
    stream, events = a_stream(), some_events(4)

    results = store.append(
        [
            Append(stream, NO_STREAM, events[:2]),
            Append(stream, NO_STREAM, some_events(1)),
            Append(stream, 1, events[2:]),
        ]
    )

    assert [type(result) for result in results] == [Appended, VersionConflict, Appended]
    assert stored(store, stream) == events


@pytest.mark.parametrize(
    ("expected", "count"), [(NO_STREAM, 0), (0, 0), (NO_STREAM - 1, 1), (-4, 1)], ids=lambda value: str(value)
)
def test_no_events_or_an_expected_version_below_minus_one_is_a_value_error(
    store: EventStore, expected: int, count: int
) -> None:
    stream, good = a_stream(), a_stream()

    with pytest.raises(ValueError, match="expected version"):
        store.append([Append(good, NO_STREAM, some_events(1)), Append(stream, expected, some_events(count))])

    assert stored(store, stream) == []
    assert stored(store, good) == [], "a batch that raises a ValueError stores nothing of itself"


# --- append: repeats -------------------------------------------------------------------------


def test_repeating_an_item_answers_as_the_first_time_and_stores_nothing(store: EventStore) -> None:
    stream, events = a_stream(), some_events(3)
    first = append(store, stream, NO_STREAM, events)

    again = append(store, stream, NO_STREAM, events)

    assert isinstance(first, Appended)
    assert again == first
    assert stored(store, stream) == events


def test_an_item_is_recognised_after_the_stream_has_moved_on(store: EventStore) -> None:
    stream, early, middle, late = a_stream(), some_events(2), some_events(2), some_events(2)
    append(store, stream, NO_STREAM, early)
    first = append(store, stream, 1, middle)
    append(store, stream, 3, late)

    again = append(store, stream, 1, middle)

    assert again == first
    assert stored(store, stream) == [*early, *middle, *late]


def test_an_item_twice_in_one_batch_is_stored_once(store: EventStore) -> None:
    stream, events = a_stream(), some_events(2)

    first, second = store.append([Append(stream, NO_STREAM, events)] * 2)

    assert isinstance(first, Appended)
    assert second == first
    assert stored(store, stream) == events


@pytest.mark.parametrize(
    "altered",
    [
        pytest.param(lambda events: events[::-1], id="in another order"),
        pytest.param(lambda events: [*events, an_event()], id="with one more"),
        pytest.param(lambda events: [an_event(), *events[1:]], id="with another first"),
        pytest.param(lambda events: [events[0], an_event()], id="with another last"),
    ],
)
def test_an_item_that_is_only_like_an_earlier_one_stores_nothing(
    store: EventStore, altered: Callable[[list[EventData]], list[EventData]]
) -> None:
    stream, events = a_stream(), some_events(2)
    append(store, stream, NO_STREAM, events)

    result = append(store, stream, NO_STREAM, altered(events))

    assert result == VersionConflict(stream, NO_STREAM, actual=1)
    assert stored(store, stream) == events


def test_the_same_event_ids_at_another_expected_version_are_not_stored_twice(store: EventStore) -> None:
    stream, events = a_stream(), some_events(1)
    append(store, stream, NO_STREAM, events)

    result = append(store, stream, 0, events)

    assert result == DuplicateEventId(stream)
    assert stored(store, stream) == events


def test_an_event_id_is_used_once_in_the_whole_store(store: EventStore, store_url: str) -> None:
    if store_url.startswith("esdb"):
        pytest.skip("EventStoreDB knows event ids per stream only")
    first, second, third = a_stream(), a_stream(), a_stream()
    used, twin = an_event(), an_event()
    append(store, first, NO_STREAM, [used])

    results = store.append(
        [Append(second, NO_STREAM, [an_event(), used]), Append(third, NO_STREAM, [twin, an_event(), twin])]
    )

    assert results == [DuplicateEventId(second), DuplicateEventId(third)]
    assert stored(store, second) == stored(store, third) == []


@st.composite
def _batches(draw: st.DrawFn) -> list[list[tuple[int, int, list[int]]]]:
    """Batches of (stream, expected version, event numbers); few of each, so that they meet often."""
    numbers = st.lists(st.integers(0, 9), min_size=1, max_size=3)
    item = st.tuples(st.integers(0, 2), st.integers(-1, 4), numbers)
    return draw(st.lists(st.lists(item, max_size=5), max_size=5))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(batches=_batches())
def test_any_history_of_batches_ends_as_in_a_plain_list(
    store: EventStore, batches: list[list[tuple[int, int, list[int]]]]
) -> None:
    # An event's id goes with its stream here, because EventStoreDB compares ids within a stream only.
    kind = a_stream("history")
    events = {(stream, number): an_event() for stream in range(3) for number in range(10)}
    model: dict[int, list[int]] = {0: [], 1: [], 2: []}
    head = store.head()

    for batch in batches:
        items = [
            Append(f"{kind}-{stream}", expected, [events[stream, number] for number in numbers])
            for stream, expected, numbers in batch
        ]
        results = store.append(items)
        for (stream, expected, numbers), result in zip(batch, results, strict=True):
            held = model[stream]
            at_end = expected == len(held) - 1
            repeated = held[expected + 1 : expected + 1 + len(numbers)] == numbers
            fresh = len(set(numbers)) == len(numbers) and not set(numbers) & set(held)
            if at_end and fresh:
                held.extend(numbers)
            if (at_end and fresh) or repeated:
                assert isinstance(result, Appended)
                assert result.version == expected + len(numbers)
            elif at_end:
                assert result == DuplicateEventId(f"{kind}-{stream}")
            else:
                assert result == VersionConflict(f"{kind}-{stream}", expected, len(held) - 1)

    for stream, held in model.items():
        assert stored(store, f"{kind}-{stream}") == [events[stream, number] for number in held]
    total = sum(map(len, model.values()))
    assert len(list(store.read_all(head, 1000, prefixes=[kind]))) == total


# --- reading one stream ----------------------------------------------------------------------


def _versions(events: Iterator[Recorded]) -> list[int]:
    return [event.version for event in events]


def test_a_stream_is_read_in_version_order(store: EventStore) -> None:
    stream = a_stream()
    append(store, stream, NO_STREAM, some_events(4))

    assert _versions(store.read_stream(stream)) == [0, 1, 2, 3]
    assert _versions(store.read_stream(stream, 2)) == [2, 3]
    assert _versions(store.read_stream(stream, 4)) == []
    assert _versions(store.read_stream(stream, 1, limit=2)) == [1, 2]
    assert _versions(store.read_stream(stream, limit=0)) == []


def test_backwards_a_stream_is_read_from_the_last_version_down(store: EventStore) -> None:
    stream = a_stream()
    append(store, stream, NO_STREAM, some_events(4))

    assert _versions(store.read_stream(stream, backwards=True)) == [3, 2, 1, 0]
    assert _versions(store.read_stream(stream, 2, backwards=True)) == [3, 2]
    assert _versions(store.read_stream(stream, backwards=True, limit=1)) == [3]
    assert _versions(store.read_stream(stream, 1, backwards=True, limit=2)) == [3, 2]


def test_a_stream_that_does_not_exist_yields_nothing(store: EventStore) -> None:
    assert list(store.read_stream(a_stream())) == []
    assert list(store.read_stream(a_stream(), 3, backwards=True, limit=1)) == []


def test_a_stream_is_not_mixed_up_with_one_whose_name_starts_alike(store: EventStore) -> None:
    stream = a_stream()
    mine, other = some_events(1), some_events(2)
    append(store, stream, NO_STREAM, mine)
    append(store, stream + "0", NO_STREAM, other)

    assert stored(store, stream) == mine


# --- reading all -----------------------------------------------------------------------------


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


def test_reading_in_steps_gives_what_reading_at_once_gives(store: EventStore) -> None:
    kind, head = a_stream("kind"), store.head()
    store.append([Append(f"{kind}-{number}", NO_STREAM, some_events(9)) for number in range(300)])

    position, in_steps = head, list[Recorded]()
    for _ in range(2700 // 333 + 1):
        step = list(store.read_all(position, 333, prefixes=[kind]))
        in_steps += step
        position = step[-1].position

    assert in_steps == list(store.read_all(head, 1_000_000, prefixes=[kind]))
    assert len(in_steps) == 2700


def test_a_large_limit_is_kept_exactly_however_the_store_pages(store: EventStore) -> None:
    kind, head = a_stream("kind"), store.head()
    store.append([Append(f"{kind}-{number}", NO_STREAM, some_events(10)) for number in range(250)])

    counts = [
        len(list(store.read_all(head, limit, prefixes=[kind]))) for limit in (999, 1000, 1001, 2400, 9999)
    ]

    assert counts == [999, 1000, 1001, 2400, 2500]


def test_prefixes_choose_the_streams_whose_name_starts_with_one_of_them(store: EventStore) -> None:
    root, head = a_stream("root"), store.head()
    names = [
        f"{root}-{name}" for name in ("a1", "a2", "b1", "ab", "A1", "b%", "b_2", "c☃", "c", "d.", "dd", "d(")
    ]
    for name in names:
        append(store, name, NO_STREAM, some_events(1))

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


# --- head and names --------------------------------------------------------------------------


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


def test_a_store_is_closed_twice_without_harm(store: EventStore) -> None:
    append(store, a_stream(), NO_STREAM, some_events(1))

    store.close()

    assert store.close() is None


def test_a_closed_store_that_holds_something_is_unavailable(open_again: OpenAgain) -> None:
    store = open_again()
    store.close()

    with pytest.raises(PartUnavailable):
        append(store, a_stream(), NO_STREAM, some_events(1))
    with pytest.raises(PartUnavailable):
        store.head()
    with pytest.raises(PartUnavailable):
        list(store.read_all(0, 1))


# --- follow ----------------------------------------------------------------------------------


def test_a_follower_reads_what_is_there_and_then_says_that_it_caught_up(store: EventStore) -> None:
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


def test_a_follower_sees_an_event_that_comes_later_and_catches_up_again(store: EventStore) -> None:
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


def test_caught_up_tells_how_far_even_when_the_prefixes_passed_over_the_events(store: EventStore) -> None:
    head = store.head()
    append(store, a_stream("other"), NO_STREAM, some_events(3))

    first = next(store.follow(head, stopped=before(DEADLINE_S), prefixes=[a_stream("mine")]))

    assert isinstance(first, CaughtUp)
    assert first.position > head, "or a follower of few streams would read the others again and again"


def test_caught_up_is_never_said_before_an_event_that_was_already_committed(store: EventStore) -> None:
    kind = a_stream("kind")
    positions = list[int]()
    following = store.follow(store.head(), stopped=before(DEADLINE_S), prefixes=[kind])
    for version in range(20):
        result = append(store, kind, version - 1, some_events(1))
        assert isinstance(result, Appended)
        item = next(following)
        while isinstance(item, CaughtUp) and item.position < result.position:
            item = next(following)  # it had looked before the append
        assert isinstance(item, Recorded)
        positions.append(item.position)

    assert positions == [event.position for event in store.read_stream(kind)]


def test_an_idle_follower_says_caught_up_at_least_every_fifth_of_a_second(store: EventStore) -> None:
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


def test_a_follower_is_told_of_a_store_that_went_back_in_time(store: EventStore) -> None:
    append(store, a_stream(), NO_STREAM, some_events(1))
    end = store.head()

    with pytest.raises(StoreBehind) as told:
        list(store.follow(end + 1000, stopped=before(DEADLINE_S)))

    assert told.value.seen == end + 1000


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


def test_a_follower_that_is_stopped_from_the_start_yields_nothing(store: EventStore) -> None:
    head = store.head()
    append(store, a_stream(), NO_STREAM, some_events(1))

    assert list(store.follow(head, stopped=lambda: True)) == []


# --- many threads ----------------------------------------------------------------------------

_WRITERS, _VERSIONS = 4, 25


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Threads take turns so often that what isn't guarded goes wrong soon."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual_s)


@pytest.mark.usefixtures("restless_threads")
def test_of_many_threads_exactly_one_wins_each_version(store: EventStore) -> None:
    stream, together, size, rounds = a_stream("race"), threading.Barrier(_WRITERS), 20, 200

    def race(writer: int) -> list[int]:
        won = list[int]()
        for version, item in enumerate(some_events(size) for _ in range(rounds)):
            together.wait(DEADLINE_S)
            result = append(store, stream, version * size - 1, item)
            assert isinstance(result, Appended | VersionConflict)
            if isinstance(result, Appended):
                won.append(version)
        return won

    with ThreadPoolExecutor(_WRITERS) as pool:
        won = list(pool.map(race, range(_WRITERS)))

    assert sorted(itertools.chain(*won)) == list(range(rounds))
    assert _versions(store.read_stream(stream)) == list(range(rounds * size))


@pytest.mark.usefixtures("restless_threads")
def test_readers_skip_nothing_while_threads_append(store: EventStore) -> None:
    kind, head, each = a_stream("kind"), store.head(), 40
    writing = threading.Event()
    writing.set()

    def write(writer: int) -> None:
        for version in range(each):
            assert isinstance(append(store, f"{kind}-{writer}", version - 1, some_events(2)[:1]), Appended)

    def follow() -> list[int]:
        seen = list[int]()
        done = before(LONG_S)
        for item in store.follow(
            head, stopped=lambda: len(seen) == each * _WRITERS or done(), prefixes=[kind]
        ):
            if isinstance(item, Recorded):
                seen.append(item.position)
        return seen

    with ThreadPoolExecutor(_WRITERS + 1) as pool:
        following = pool.submit(follow)
        list(pool.map(write, range(_WRITERS)))
        seen = following.result(timeout=LONG_S)

    assert seen == [event.position for event in store.read_all(head, 10_000, prefixes=[kind])]
    assert len(seen) == each * _WRITERS


# --- many processes --------------------------------------------------------------------------

_IN_PROCESS = "import sys; from tests.contract import test_event_store as t; t.{}(*sys.argv[1:])"


def _start(role: Callable[..., None], *arguments: str) -> subprocess.Popen[str]:
    return start_python(_IN_PROCESS.format(role.__name__), *arguments)


def _say(line: object) -> None:
    print(json.dumps(line), flush=True)


def _answers(process: subprocess.Popen[str]) -> list[object]:
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def racing_process(url: str, stream: str, versions: str) -> None:
    with closing(open_store(url)) as store:
        _say("ready")
        input()  # all start together
        for version in range(int(versions)):
            result = append(store, stream, version - 1, [an_event()])
            _say(result.version if isinstance(result, Appended) else type(result).__name__)


def _start_together(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == '"ready"\n', process.communicate(timeout=DEADLINE_S)[1]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def test_of_many_processes_exactly_one_wins_each_version(store: EventStore, shared_store_url: str) -> None:
    stream = a_stream("race")
    processes = [_start(racing_process, shared_store_url, stream, str(_VERSIONS)) for _ in range(_WRITERS)]

    _start_together(processes)
    answers = [_answers(process) for process in processes]

    counts = Counter(itertools.chain(*answers))
    assert [counts.pop(version) for version in range(_VERSIONS)] == [1] * _VERSIONS
    assert counts == {"VersionConflict": _VERSIONS * (_WRITERS - 1)}
    assert _versions(store.read_stream(stream)) == list(range(_VERSIONS))


def writing_process(url: str, stream: str, batches: str) -> None:
    """Batches of different sizes, each with two items, as fast as they go."""
    with closing(open_store(url)) as store:
        _say("ready")
        input()
        expected = [NO_STREAM, NO_STREAM]
        for number in range(int(batches)):
            size = 1 + number % 7
            items = [Append(f"{stream}-{i}", expected[i], some_events(size)) for i in (0, 1)]
            for i, result in enumerate(store.append(items)):
                assert isinstance(result, Appended)
                expected[i] = result.version
        _say([version + 1 for version in expected])


def test_readers_never_skip_or_reorder_while_processes_append(
    store: EventStore, shared_store_url: str
) -> None:
    kind, head = a_stream("kind"), store.head()
    writers = [_start(writing_process, shared_store_url, f"{kind}-{n}", "60") for n in range(3)]
    _start_together(writers)
    finished = before(LONG_S)
    total = 3 * 2 * sum(1 + number % 7 for number in range(60))

    followed, polled = list[int](), list[int]()
    for item in store.follow(head, stopped=lambda: len(followed) >= total or finished(), prefixes=[kind]):
        if isinstance(item, Recorded):
            followed.append(item.position)
        # A second reader that remembers the last position it saw, as a projection does.
        last = polled[-1] if polled else head
        polled += [event.position for event in store.read_all(last, 17, prefixes=[kind])]

    answers = [_answers(writer) for writer in writers]
    committed = [event.position for event in store.read_all(head, 100_000, prefixes=[kind])]
    assert sum(itertools.chain(*itertools.chain(*answers))) == total  # type: ignore[arg-type]
    assert len(committed) == total
    assert followed == committed
    assert polled == committed[: len(polled)]
    assert len(polled) > 0


def obedient_process(url: str, stream: str) -> None:
    """Appends a batch, tells the answer, and waits to be killed."""
    store = open_store(url)
    results = store.append([Append(f"{stream}-{n}", NO_STREAM, some_events(20)) for n in range(5)])
    _say([result.position for result in results if isinstance(result, Appended)])
    signal.pause()


def test_an_answered_batch_survives_the_killing_of_its_writer(
    store: EventStore, shared_store_url: str
) -> None:
    stream = a_stream("kept")
    writer = _start(obedient_process, shared_store_url, stream)
    assert writer.stdout is not None

    line = writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    _, err = writer.communicate(timeout=DEADLINE_S)

    assert writer.returncode == -signal.SIGKILL, err
    positions = json.loads(line)
    assert len(positions) == 5
    last_events = [next(store.read_stream(f"{stream}-{n}", backwards=True, limit=1)) for n in range(5)]
    assert [event.position for event in last_events] == positions
    assert [event.version for event in last_events] == [19] * 5


_ITEM = 30


def restless_process(url: str, stream: str) -> None:
    """Appends items of 30 events for ever, telling each answer."""
    store, version = open_store(url), NO_STREAM
    while True:
        result = append(store, stream, version, some_events(_ITEM))
        assert isinstance(result, Appended)
        version = result.version
        _say(version)


@pytest.mark.parametrize("seed", range(4))
def test_a_writer_killed_at_any_moment_leaves_whole_items(
    store: EventStore, shared_store_url: str, seed: int
) -> None:
    stream, chance = a_stream("killed"), random.Random(seed)
    writer = _start(restless_process, shared_store_url, stream)
    assert writer.stdout is not None
    assert writer.stdout.readline() == f"{_ITEM - 1}\n", writer.communicate(timeout=DEADLINE_S)[1]
    moment = time.monotonic() + chance.uniform(0, 0.05)
    eventually(lambda: time.monotonic() >= moment, "the moment of the kill")

    os.kill(writer.pid, signal.SIGKILL)
    told, _ = writer.communicate(timeout=DEADLINE_S)

    versions = _versions(store.read_stream(stream))
    assert versions == list(range(len(versions))), "no hole"
    assert len(versions) % _ITEM == 0, "no half item"
    lines = told.splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    answered = int(whole[-1]) if whole else _ITEM - 1
    assert answered + 1 <= len(versions), "an answer is a promise"
    assert append(store, stream, versions[-1], some_events(1)), "and the store goes on"


def test_two_handles_see_each_others_events_at_once(store: EventStore, open_again: OpenAgain) -> None:
    other, stream = open_again(), a_stream()

    result = append(store, stream, NO_STREAM, some_events(2))

    assert isinstance(result, Appended)
    assert _versions(other.read_stream(stream)) == [0, 1]
    assert other.head() >= result.position
    assert append(other, stream, NO_STREAM, some_events(1)) == VersionConflict(stream, NO_STREAM, 1)


def test_events_are_still_there_after_closing_and_opening_again(open_again: OpenAgain) -> None:
    stream, events = a_stream(), some_events(3)
    first = open_again()
    append(first, stream, NO_STREAM, events)
    first.close()

    second = open_again()

    assert stored(second, stream) == events
    assert isinstance(append(second, stream, 2, some_events(1)), Appended)


def test_an_unknown_outcome_is_settled_by_repeating_the_same_item(open_again: OpenAgain) -> None:
    stream, event = a_stream(), an_event(event_id=UUID(int=random.getrandbits(128), version=4))
    lost_answer = append(open_again(), stream, NO_STREAM, [event])  # suppose that nobody heard it

    repeated = append(open_again(), stream, NO_STREAM, [event])

    assert repeated == lost_answer
    assert stored(open_again(), stream) == [event]
