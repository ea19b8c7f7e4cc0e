"""The event store contract, reading: one stream, all streams, head and close.

Positions are opaque: a test may only know that they grow. A real server may hold other events, so every test has
its own streams and compares positions after the head that it started from.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from contextlib import closing

import pytest

from domain.kernel.errors import Damaged, PartUnavailable, VersionConflict
from domain.kernel.events import NO_STREAM, Recorded
from domain.kernel.ports.event_store import Append, Appended, EventStore
from tests.support.builders import a_stream, an_event, append, some_events, stored

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


def test_many_streams_are_read_at_once_each_whole_and_in_order(store: EventStore) -> None:
    one, two, missing = a_stream(), a_stream(), a_stream()
    append(store, one, NO_STREAM, some_events(2))
    append(store, two, NO_STREAM, some_events(1))
    append(store, one, 1, some_events(1))
    found = store.read_streams([two, one, missing, one])
    assert found == {name: [*store.read_stream(name)] for name in (two, one, missing)}
    assert {name: len(events) for name, events in found.items() if not isinstance(events, Damaged)} == {
        two: 1,
        one: 3,
        missing: 0,
    }


def test_of_many_streams_some_are_read_from_a_version_on(store: EventStore) -> None:
    one, two, missing = a_stream(), a_stream(), a_stream()
    append(store, one, NO_STREAM, some_events(4))
    append(store, two, NO_STREAM, some_events(2))

    found = store.read_streams([one, two, missing], first={one: 2, missing: 7})

    assert found == {one: [*store.read_stream(one, 2)], two: [*store.read_stream(two)], missing: []}
    assert store.read_streams([one], first={one: 4}) == {one: []}
    assert store.read_streams([one], first={one: 9}) == {one: []}


def test_a_stream_of_many_pages_is_read_from_a_version_on(store: EventStore) -> None:
    stream = a_stream()
    append(store, stream, NO_STREAM, some_events(1800))

    found = store.read_streams([stream], first={stream: 600})[stream]

    assert not isinstance(found, Damaged)
    assert [event.version for event in found] == [*range(600, 1800)]


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


def test_the_head_is_the_position_of_the_last_committed_event(store: EventStore) -> None:
    before_append = store.head()

    result = append(store, a_stream(), NO_STREAM, some_events(3))

    assert isinstance(result, Appended)
    assert before_append < result.position <= store.head()
    assert list(store.read_all(store.head(), 10)) == []


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
