"""The event store contract, histories: marks fit or not, positions are any number, and the store has one system id."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from domain.kernel.events import BEGINNING, NO_STREAM, Position, Recorded
from domain.kernel.history import Fit, Mark
from domain.kernel.ports.event_store import CaughtUp, EventStore
from tests.support.builders import a_stream, append, some_events
from tests.support.waiting import DEADLINE_S, before


def stored_events(store: EventStore, count: int = 3) -> tuple[str, list[Recorded]]:
    stream = a_stream("kind")
    append(store, stream, NO_STREAM, some_events(count))
    return stream, list(store.read_stream(stream))


def next_caught_up(store: EventStore, after: Position, *prefixes: str) -> CaughtUp:
    following = store.follow(after, stopped=before(DEADLINE_S), prefixes=prefixes or None)
    return next(item for item in following if isinstance(item, CaughtUp))


# --- marks -----------------------------------------------------------------------------------


def test_the_mark_of_a_stored_event_fits(store: EventStore) -> None:
    _, events = stored_events(store)

    assert {store.fit(Mark(event.position, event.event_id)) for event in events} == {Fit.SAME}


def test_another_event_at_the_position_of_a_mark_is_another_history(store: EventStore) -> None:
    _, events = stored_events(store)

    assert {store.fit(Mark(event.position, uuid4())) for event in events} == {Fit.OTHER}


def test_a_mark_after_the_end_of_the_store_is_of_another_history(store: EventStore) -> None:
    _, events = stored_events(store)

    assert store.fit(Mark(events[-1].position + 100_000, uuid4())) is Fit.OTHER


def test_a_look_at_a_mark_does_not_change_the_next_reads(store: EventStore) -> None:
    stream, events = stored_events(store)

    store.fit(Mark(events[1].position - 1, uuid4()))
    store.fit(Mark(events[1].position + 1, uuid4()))

    assert list(store.read_all(events[0].position, 10, prefixes=[stream])) == events[1:]


# --- the id at the head ----------------------------------------------------------------------


def test_an_empty_store_has_no_event_at_its_head(fresh_store: EventStore) -> None:
    assert next_caught_up(fresh_store, BEGINNING) == CaughtUp(BEGINNING, None)


@pytest.mark.parametrize("mine", [True, False], ids=["followed", "passed over"])
def test_caught_up_carries_the_id_of_the_event_at_its_position(store: EventStore, mine: bool) -> None:
    head = store.head()
    stream, events = stored_events(store)

    caught_up = next_caught_up(store, head, stream if mine else a_stream("other"))

    assert caught_up == CaughtUp(events[-1].position, events[-1].event_id)
    assert caught_up.event_id is not None
    assert store.fit(Mark(caught_up.position, caught_up.event_id)) is Fit.SAME


def test_a_follower_that_starts_at_the_head_learns_its_id(store: EventStore) -> None:
    _, events = stored_events(store)

    assert next_caught_up(store, store.head()).event_id == events[-1].event_id


# --- any number is a position ----------------------------------------------------------------


def numbers(events: list[Recorded]) -> list[tuple[Position, list[Recorded]]]:
    """Numbers around the positions of events, each with the events after it."""
    around = {event.position + step for event in events for step in (-2, -1, 0, 1, 2)}
    return [(number, [e for e in events if e.position > number]) for number in sorted(around)]


def test_events_are_read_after_any_number(store: EventStore) -> None:
    stream, events = stored_events(store)

    for number, expected in numbers(events):
        assert list(store.read_all(number, 10, prefixes=[stream])) == expected, number
        assert list(store.read_all(number, 1, prefixes=[stream])) == expected[:1], number


def test_nothing_is_read_after_a_number_beyond_the_end(store: EventStore) -> None:
    _, events = stored_events(store)

    assert list(store.read_all(events[-1].position + 100_000, 10)) == []
    assert list(store.read_all((1 << 62) - 1, 10)) == []


def test_a_follower_starts_after_any_number(store: EventStore) -> None:
    stream, events = stored_events(store)

    for number, expected in numbers(events):
        if number > events[-1].position:
            continue  # the store ends before it
        seen: list[Recorded] = []
        for item in store.follow(number, stopped=before(DEADLINE_S), prefixes=[stream]):
            if isinstance(item, CaughtUp):
                break
            seen.append(item)
        assert seen == expected, number


def test_a_follower_from_any_number_goes_on_live(store: EventStore) -> None:
    stream, events = stored_events(store)
    following = store.follow(events[0].position + 1, stopped=before(DEADLINE_S), prefixes=[stream])
    while not isinstance(next(following), CaughtUp):
        pass

    append(store, stream, 2, some_events(1))

    late = next(item for item in following if isinstance(item, Recorded))
    assert late.version == 3


# --- the system id ---------------------------------------------------------------------------


def test_a_new_store_has_no_system_id(fresh_store: EventStore) -> None:
    assert fresh_store.system_id() is None


def test_the_first_claim_gives_the_store_its_id_and_a_second_one_learns_it(fresh_store: EventStore) -> None:
    mine, other = uuid4(), uuid4()

    assert fresh_store.claim_system(mine) == mine
    assert fresh_store.claim_system(other) == mine
    assert fresh_store.system_id() == mine


def test_a_claim_replaces_only_the_id_that_it_names(fresh_store: EventStore) -> None:
    first, second, third = uuid4(), uuid4(), uuid4()
    fresh_store.claim_system(first)

    assert fresh_store.claim_system(second, instead_of=third) == first
    assert fresh_store.claim_system(second, instead_of=first) == second
    assert fresh_store.system_id() == second


def test_the_system_id_is_durable(fresh_store: EventStore, open_again: Callable[[], EventStore]) -> None:
    mine = fresh_store.claim_system(uuid4())

    assert open_again().system_id() == mine


def test_of_several_claims_at_once_one_succeeds(
    fresh_store: EventStore, open_again: Callable[[], EventStore]
) -> None:
    stores, start = [open_again() for _ in range(4)], threading.Barrier(4)

    def claim(store: EventStore) -> object:
        mine = uuid4()
        start.wait(DEADLINE_S)
        return store.claim_system(mine)

    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(claim, stores))

    assert ids == {fresh_store.system_id()}
