"""The event store contract, `append`: whole items, exact versions, one result for each item, and retries."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.kernel.errors import DuplicateEventId, VersionConflict
from domain.kernel.events import NO_STREAM, EventData
from domain.kernel.ports.event_store import Append, Appended, EventStore
from tests.support.builders import a_stream, an_event, append, some_events, stored


@pytest.mark.parametrize(
    "events",
    [
        lambda: some_events(5),
        lambda: some_events(1500),
        lambda: [an_event(data=b'"%s"' % (b"x" * 1_000_000))],
    ],
    ids=["some", "many", "a megabyte"],
)
def test_an_item_is_stored_with_all_its_events_in_order(
    store: EventStore, events: Callable[[], list[EventData]]
) -> None:
    stream, appended = a_stream(), events()

    result = append(store, stream, NO_STREAM, appended)

    assert isinstance(result, Appended)
    assert result.version == len(appended) - 1
    assert stored(store, stream) == appended


def test_a_recorded_event_equals_the_appended_one_and_has_its_place(store: EventStore) -> None:
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


def test_the_result_is_the_version_and_position_of_the_last_event(store: EventStore) -> None:
    stream = a_stream()

    first = append(store, stream, NO_STREAM, some_events(3))
    second = append(store, stream, 2, some_events(2))

    events = list(store.read_stream(stream))
    assert first == Appended(2, events[2].position)
    assert second == Appended(4, events[4].position)


def test_a_batch_returns_one_result_for_each_item_in_order(store: EventStore) -> None:
    streams = [a_stream() for _ in range(20)]

    results = store.append(
        [Append(stream, NO_STREAM, some_events(i + 1)) for i, stream in enumerate(streams)]
    )

    assert [result.version for result in results if isinstance(result, Appended)] == list(range(20))
    assert [len(stored(store, stream)) for stream in streams] == list(range(1, 21))


def test_an_empty_batch_returns_no_result(store: EventStore) -> None:
    head = store.head()

    assert store.append([]) == []
    assert store.head() == head


@pytest.mark.parametrize(
    ("length", "expected"),
    [*((2, version) for version in (NO_STREAM, 0, 2, 3, 1000)), *((0, version) for version in (0, 1, 1000))],
)
def test_another_expected_version_is_a_conflict_and_appends_nothing(
    store: EventStore, length: int, expected: int
) -> None:
    stream, events = a_stream(), some_events(length)
    store.append([Append(stream, NO_STREAM, events)] if events else [])

    result = append(store, stream, expected, some_events(2))

    assert result == VersionConflict(stream, expected, actual=length - 1)
    assert stored(store, stream) == events


def test_a_failed_item_does_not_affect_the_others(store: EventStore) -> None:
    taken, left, right = a_stream(), a_stream(), a_stream()
    append(store, taken, NO_STREAM, some_events(1))

    results = store.append([Append(stream, NO_STREAM, some_events(2)) for stream in (left, taken, right)])

    assert [type(result) for result in results] == [Appended, VersionConflict, Appended]
    assert [len(stored(store, stream)) for stream in (left, taken, right)] == [2, 1, 2]


def test_a_later_item_sees_the_events_of_an_earlier_one(store: EventStore) -> None:
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
def test_no_events_or_a_version_below_minus_one_is_a_value_error(
    store: EventStore, expected: int, count: int
) -> None:
    stream, good = a_stream(), a_stream()

    with pytest.raises(ValueError, match="expected version"):
        store.append([Append(good, NO_STREAM, some_events(1)), Append(stream, expected, some_events(count))])

    assert stored(store, stream) == []
    assert stored(store, good) == [], "a batch that raises a ValueError stores nothing"


# --- retries ---------------------------------------------------------------------------------


def test_a_retried_item_returns_its_first_result_and_stores_nothing(store: EventStore) -> None:
    stream, events = a_stream(), some_events(3)
    first = append(store, stream, NO_STREAM, events)

    again = append(store, stream, NO_STREAM, events)

    assert isinstance(first, Appended)
    assert again == first
    assert stored(store, stream) == events


def test_a_retried_item_is_recognised_after_later_appends(store: EventStore) -> None:
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
def test_an_item_similar_to_a_stored_one_is_a_conflict(
    store: EventStore, altered: Callable[[list[EventData]], list[EventData]]
) -> None:
    stream, events = a_stream(), some_events(2)
    append(store, stream, NO_STREAM, events)

    result = append(store, stream, NO_STREAM, altered(events))

    assert result == VersionConflict(stream, NO_STREAM, actual=1)
    assert stored(store, stream) == events


def test_stored_event_ids_at_another_expected_version_are_duplicates(store: EventStore) -> None:
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


Item = tuple[int, int, list[int]]
"""A stream, an expected version and the numbers of events. There are few of each, so that they meet often."""
_items = st.tuples(st.integers(0, 2), st.integers(-1, 4), st.lists(st.integers(0, 9), min_size=1, max_size=3))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(batches=st.lists(st.lists(_items, max_size=5), max_size=5))
def test_any_sequence_of_batches_has_the_effect_it_has_on_lists(
    store: EventStore, batches: list[list[Item]]
) -> None:
    # Each stream has its own event ids, because EventStoreDB compares ids within a stream only.
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
