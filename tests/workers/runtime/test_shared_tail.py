"""One subscription for several followers: each gets every event once and in order, also while others start and end."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from adapters.memory.event_store import MemoryStore
from domain.kernel.errors import PartUnavailable, StoreBehind
from domain.kernel.events import NO_STREAM, Position, Recorded
from domain.kernel.ports.event_store import CaughtUp, EventStore
from tests.support.builders import append, some_events
from tests.support.parts import replaced
from tests.support.waiting import DEADLINE_S
from workers.runtime.shared_tail import SharedTail

OTHERS = 30


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def fill(store: EventStore, first: int, count: int, stream: str = "a") -> None:
    for number in range(first, first + count):
        append(store, f"{stream}-{number}", NO_STREAM, some_events(1))


def never() -> bool:
    return False


def until_head(
    tail: SharedTail, store: EventStore, after: Position = 0, **chosen: Sequence[str]
) -> list[Position]:
    """The positions that a follower gets up to the present head."""
    head = store.head()
    found: list[Position] = []
    for item in tail.follow(after, stopped=never, **chosen):
        if isinstance(item, CaughtUp):
            if item.position >= head:
                return found
        else:
            found.append(item.position)
    raise AssertionError("a follower ended by itself")


def counting(store: MemoryStore) -> tuple[Any, list[Position]]:
    """A store that notes where each subscription starts."""
    starts: list[Position] = []

    def follow(after: Position, **more: Any) -> Iterator[Recorded | CaughtUp]:
        starts.append(after)
        return store.follow(after, **more)

    return replaced(store, follow=follow), starts


def test_followers_share_a_subscription(store: MemoryStore) -> None:
    counted, starts = counting(store)
    tail = SharedTail(counted)
    one, two = (tail.follow(0, stopped=never) for _ in range(2))
    for follower in (one, two):  # each new follower starts a subscription; from then on there is one
        assert isinstance(next(follower), CaughtUp)
    del starts[:]

    for number in range(50):
        fill(store, number, 1)
        for follower in (one, two):
            events = itertools.takewhile(lambda item: isinstance(item, Recorded), follower)
            assert [event.position for event in events] == [number + 1]

    assert starts == []


def test_a_follower_gets_only_streams_with_its_prefixes(store: MemoryStore) -> None:
    tail = SharedTail(store)
    for number in range(10):
        fill(store, number, 1, stream="a" if number % 2 else "b")

    assert until_head(tail, store, prefixes=["b-"]) == [1, 3, 5, 7, 9]
    assert until_head(tail, store, prefixes=["b-", "a-"]) == [*range(1, 11)]


def test_followers_of_other_types_share_a_subscription_to_all_of_them(store: MemoryStore) -> None:
    seen: list[Any] = []

    def follow(after: Position, **more: Any) -> Iterator[Recorded | CaughtUp]:
        seen.append(more["types"])
        return store.follow(after, **more)

    def fill_three(first: int) -> None:
        for number, type_ in enumerate(("opened.v1", "closed.v1", "renamed.v1"), first):
            append(store, f"a-{number}", NO_STREAM, [replace(some_events(1)[0], type=type_)])

    tail = SharedTail(replaced(store, follow=follow), types=["opened", "closed"])
    fill_three(0)
    fill_three(3)

    assert until_head(tail, store, types=["closed"]) == [2, 5]
    assert until_head(tail, store, types=["opened"], prefixes=["a-3"]) == [4]
    behind = tail.follow(0, stopped=never, types=["closed"])
    found = [*itertools.takewhile(lambda item: isinstance(item, Recorded), behind)]
    fill_three(6)
    assert until_head(tail, store, after=9, types=["opened"]) == []
    found += itertools.takewhile(lambda item: isinstance(item, Recorded), behind)
    assert [item.position for item in found] == [2, 5, 8], "the last one in a page of its own"
    assert seen == [["opened", "closed"]] * len(seen)


def test_a_follower_far_behind_does_not_hold_up_another_one(store: MemoryStore) -> None:
    fill(store, 0, 3000)
    tail = SharedTail(store)
    behind = tail.follow(0, stopped=never)
    first = next(behind)
    assert isinstance(first, Recorded)

    fill(store, 3000, 10)
    assert until_head(tail, store, after=3000) == [*range(3001, 3011)]

    rest = [item.position for item in itertools.islice(behind, 3009) if isinstance(item, Recorded)]
    assert [first.position, *rest] == [*range(1, 3011)]


def test_a_follower_that_is_slow_misses_nothing(store: MemoryStore) -> None:
    tail = SharedTail(store)
    slow = tail.follow(0, stopped=never)
    assert isinstance(next(slow), CaughtUp)
    fast = tail.follow(0, stopped=never)
    assert isinstance(next(fast), CaughtUp)

    fill(store, 0, 5000)  # more than are kept
    assert sum(isinstance(item, Recorded) for item in itertools.islice(fast, 5000)) > 4900

    got = (item.position for item in slow if isinstance(item, Recorded))
    assert [*itertools.islice(got, 5000)] == [*range(1, 5001)]


def test_a_position_after_the_head_is_an_error(store: MemoryStore) -> None:
    fill(store, 0, 5)
    tail = SharedTail(store)
    other = tail.follow(0, stopped=never)
    assert isinstance(next(other), Recorded)

    with pytest.raises(StoreBehind):
        until_head(tail, store, after=9)
    assert [item.position for item in itertools.islice(other, 4) if isinstance(item, Recorded)] == [
        2,
        3,
        4,
        5,
    ]


def test_an_outage_ends_a_follower_and_the_next_one_goes_on(store: MemoryStore) -> None:
    def failing(after: Position, **more: Any) -> Iterator[Recorded | CaughtUp]:
        yield from itertools.islice(store.follow(after, **more), 2)
        raise PartUnavailable("event store", "it is unavailable")

    fill(store, 0, 5)
    tail = SharedTail(replaced(store, follow=failing))
    with pytest.raises(PartUnavailable):
        until_head(tail, store)

    tail._store = store
    assert until_head(tail, store, after=2) == [3, 4, 5]


def test_an_outage_met_by_one_follower_does_not_stop_the_others(store: MemoryStore) -> None:
    fails = [False]

    def follow(after: Position, **more: Any) -> Iterator[Recorded | CaughtUp]:
        for item in store.follow(after, **more):
            if fails.pop() if fails[-1:] == [True] else False:
                raise PartUnavailable("event store", "it is unavailable")
            yield item

    tail = SharedTail(replaced(store, follow=follow))
    one, two = (tail.follow(0, stopped=never) for _ in range(2))
    assert isinstance(next(one), CaughtUp)
    assert isinstance(next(two), CaughtUp)
    fails.append(True)
    with pytest.raises(PartUnavailable):
        next(one)

    fill(store, 0, 3)

    assert [item.position for item in itertools.islice(two, 4) if isinstance(item, Recorded)] == [1, 2, 3]


def test_a_follower_far_ahead_starts_the_subscription_at_its_position(store: MemoryStore) -> None:
    fill(store, 0, 9000)
    counted, starts = counting(store)
    tail = SharedTail(counted)
    ahead = tail.follow(9000, stopped=never)
    assert isinstance(next(ahead), CaughtUp)
    behind = tail.follow(0, stopped=never)
    assert isinstance(next(behind), Recorded)

    fill(store, 9000, 1)
    assert next(item for item in ahead if isinstance(item, Recorded)).position == 9001

    assert starts == [9000, 0, 9000]
    got = (item.position for item in behind if isinstance(item, Recorded))
    assert [*itertools.islice(got, 9000)] == [*range(2, 9002)]


def test_events_of_a_lost_history_are_not_given_to_a_new_follower(store: MemoryStore) -> None:
    fill(store, 0, 5)
    tail = SharedTail(store)
    assert until_head(tail, store) == [1, 2, 3, 4, 5]
    restored = MemoryStore()
    fill(restored, 0, 5, stream="other")

    tail._store = restored

    follower = tail.follow(0, stopped=never)
    streams = [item.stream for item in itertools.islice(follower, 5) if isinstance(item, Recorded)]
    assert streams == [f"other-{number}" for number in range(5)]


@pytest.mark.parametrize("seed", range(4))
def test_every_event_comes_once_while_followers_come_and_go(store: MemoryStore, seed: int) -> None:
    chance = random.Random(seed)
    tail = SharedTail(store)
    last = OTHERS * 100

    def follow(starts: list[float]) -> list[Position]:
        found: list[Position] = []
        for share in (*starts, 2.0):  # start anew at the last position, as after an outage
            for item in tail.follow(found[-1] if found else 0, stopped=never):
                if isinstance(item, Recorded):
                    found.append(item.position)
                if len(found) >= min(share * last, last):
                    break
        return found

    with ThreadPoolExecutor(4) as pool:
        starts = [sorted(chance.random() for _ in range(3)) for _ in range(3)]
        followers = [pool.submit(follow, each) for each in starts]
        for number in range(OTHERS):
            fill(store, number * 100, 100)

        for follower in followers:
            assert follower.result(DEADLINE_S) == [*range(1, last + 1)]


def test_a_follower_ends_when_it_is_stopped(store: MemoryStore) -> None:
    tail = SharedTail(store)
    stopping: list[bool] = []
    stopped: Callable[[], bool] = lambda: bool(stopping)  # noqa: E731
    follower = tail.follow(0, stopped=stopped)
    assert isinstance(next(follower), CaughtUp)

    stopping.append(True)

    assert [*follower] == []
