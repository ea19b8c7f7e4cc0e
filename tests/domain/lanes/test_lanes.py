"""Lanes: folding, decisions, the lease in memory, the proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.errors import EsError
from domain.kernel.events import Event
from domain.kernel.ids import position_of
from domain.lanes.errors import (
    AheadLimit,
    ClockRejected,
    LayoutMismatch,
    LeaseExhausted,
    NoFreeLane,
    StoreWentBack,
)
from domain.lanes.grants import (
    Known,
    Lane,
    LaneFenced,
    LaneGranted,
    LaneQuarantined,
    LaneReleased,
    Standing,
    Worker,
    decide_floor,
    decide_grant,
    decide_lift,
    decide_quarantine,
    evolve,
    fence_covers,
    lane_from_tail,
    standing,
)
from domain.lanes.history import LaneHistory
from domain.lanes.layout import (
    AHEAD,
    MAX_LEASE,
    TAIL,
    LaneRange,
    choose_lanes,
    decide_layout,
    layout_for,
    stream_of,
)
from domain.lanes.leases import Lease, decide_release, decide_renewal, lease_of

ME = Worker(UUID(int=1), "here", 42)
NOW = 10**12


def granted(start: int, until: int, owner: str = str(ME.token)) -> LaneGranted:
    return LaneGranted(owner, "here", 42, start, until)


def fold(*events: Event) -> Lane:
    return reduce(evolve, events, Lane(7))


def a_lease(start: int = NOW, until: int = NOW + MAX_LEASE, last: int = -1) -> Lease:
    return lease_of(granted(start, until), 7, 3, last=last, offset=0)


# --- state -----------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """What honest workers, with clocks that step, can leave in a lane."""
    events: list[Event] = []
    lane, now = Lane(7), NOW
    for _ in range(draw(st.integers(0, 12))):
        now += draw(st.integers(-2 * MAX_LEASE, 3 * MAX_LEASE))
        worker = Worker(UUID(int=draw(st.integers(1, 3))), "here", 42)
        decided: Sequence[Event] | object = []
        match draw(st.sampled_from(["grant", "release", "renew", "fence", "quarantine"])):
            case "grant":
                decided = decide_grant(
                    lane, worker, now=now, at_least=0, length=draw(st.integers(1, MAX_LEASE))
                )
            case "release" | "renew" as what if events and isinstance(events[-1], LaneGranted):
                last = draw(st.integers(lane.from_position - 1, lane.until - 1))
                lease = lease_of(events[-1], 7, lane.version, last=last, offset=0)
                decided = (
                    decide_release(lease)
                    if what == "release"
                    else decide_renewal(lease, ME, now=now, length=MAX_LEASE)
                )
            case "fence":
                decided = decide_lift(lane, now + MAX_LEASE, now)
            case "quarantine":
                decided = decide_quarantine(lane, now)
        if isinstance(decided, list):
            events += decided
            lane = reduce(evolve, decided, lane)
    return events


@given(histories())
def test_the_last_events_tell_the_same_as_all_of_them(events: list[Event]) -> None:
    tail = list(enumerate(events))[-TAIL:]
    whole = fold(*events)
    seen = lane_from_tail(7, tail)
    assert not seen.hidden
    assert (seen.version, seen.until, seen.quarantined) == (whole.version, whole.until, whole.quarantined)


@given(histories())
def test_the_grants_of_any_history_are_disjoint(events: list[Event]) -> None:
    history = LaneHistory(7)
    for version, event in enumerate(events):
        history.add(version, 0, event)
    assert not history.problems
    ends = sorted((grant.from_position, grant.until) for grant in history.grants)
    assert all(one[1] <= other[0] for one, other in pairwise(ends))


def test_a_release_lowers_the_end_only_for_its_owner() -> None:
    assert fold(granted(10, 20), LaneReleased(str(ME.token), 15)).until == 15
    assert fold(granted(10, 20), LaneReleased("somebody else", 15)).until == 20
    assert fold(granted(10, 20), LaneFenced(30), LaneReleased(str(ME.token), 15)).until == 30


def test_a_fence_never_lowers_the_end() -> None:
    assert fold(granted(10, 20), LaneFenced(5)).until == 20


@pytest.mark.parametrize("versions", [[5], [4, 5], [2, 3, 5], [1]])
def test_a_history_with_holes_is_hidden(versions: list[int]) -> None:
    lane = lane_from_tail(7, [(version, granted(version, version + 1)) for version in versions])
    assert lane.hidden
    assert standing(lane, NOW) is Standing.HIDDEN
    assert decide_grant(lane, ME, now=NOW, at_least=0, length=1) is Standing.HIDDEN


# --- grants ----------------------------------------------------------------------------------


def test_a_free_lane_is_granted_from_now() -> None:
    assert decide_grant(Lane(7), ME, now=NOW, at_least=0, length=5) == [granted(NOW, NOW + 5)]


def test_a_grant_starts_where_the_one_before_it_ended() -> None:
    lane = fold(granted(NOW - 5, NOW))
    assert decide_grant(lane, ME, now=NOW, at_least=0, length=5) == [granted(NOW, NOW + 5)]


def test_a_lane_is_free_only_when_its_last_grant_has_run_out() -> None:
    lane = fold(granted(NOW - 5, NOW + 1))
    assert decide_grant(lane, ME, now=NOW, at_least=0, length=5) is Standing.HELD
    assert isinstance(decide_grant(lane, ME, now=NOW + 1, at_least=0, length=5), list)


@given(st.integers(NOW, NOW + 2 * AHEAD), st.integers(-1, 2 * MAX_LEASE))
def test_a_grant_starts_at_most_a_second_ahead_and_is_never_longer_than_a_lease(
    at_least: int, length: int
) -> None:
    decided = decide_grant(Lane(7), ME, now=NOW, at_least=at_least, length=length)
    possible = at_least <= NOW + AHEAD and 0 < length <= MAX_LEASE
    assert isinstance(decided, list if possible else AheadLimit)


@pytest.mark.parametrize(
    ("start", "until", "expected"),
    [
        (NOW - 5, NOW, Standing.FREE),
        (NOW + AHEAD, NOW + AHEAD + MAX_LEASE, Standing.HELD),
        (NOW + AHEAD + 1, NOW + AHEAD + 2, Standing.POISONED),
        (NOW, NOW + MAX_LEASE + 1, Standing.POISONED),
    ],
)
def test_what_no_honest_clock_can_have_granted_is_poisoned(
    start: int, until: int, expected: Standing
) -> None:
    assert standing(fold(granted(start, until)), NOW) is expected


def test_a_poisoned_lane_is_marked_once_and_never_rewound() -> None:
    lane = fold(granted(NOW + 10**9, NOW + 10**9 + 5))
    marks = decide_quarantine(lane, NOW)
    assert [type(mark) for mark in marks] == [LaneQuarantined]
    after = evolve(lane, marks[0])
    assert decide_quarantine(after, NOW) == []
    assert after.until == lane.until
    assert standing(after, NOW + 2 * 10**9) is Standing.FREE


def test_a_fenced_lane_is_held_and_not_poisoned() -> None:
    (floor,) = [decide_floor([], now=NOW, workers_stopped=False).floor]
    assert standing(fold(LaneFenced(floor)), NOW) is Standing.HELD


# --- renewal, release, fence -----------------------------------------------------------------


def test_a_renewal_gives_back_the_rest_and_takes_a_whole_lease_from_there() -> None:
    lease = a_lease()
    lease.take(10, NOW)
    assert decide_renewal(lease, ME, now=NOW + 5, length=MAX_LEASE) == [
        LaneReleased(str(ME.token), NOW + 10),
        granted(NOW + 10, NOW + 10 + MAX_LEASE),
    ]


def test_a_renewal_never_starts_further_ahead_than_a_second() -> None:
    lease = a_lease(last=NOW + 10)
    assert isinstance(decide_renewal(lease, ME, now=NOW - AHEAD, length=MAX_LEASE), AheadLimit)


def test_an_exhausted_lease_is_not_renewed_but_replaced() -> None:
    lease = a_lease(until=NOW + 10)
    assert isinstance(decide_renewal(lease, ME, now=NOW + 11, length=MAX_LEASE), AheadLimit)


def test_a_release_names_the_position_after_the_last_issued() -> None:
    lease = a_lease()
    lease.take(10, NOW)
    assert decide_release(lease) == [LaneReleased(str(ME.token), NOW + 10)]


def test_a_lease_that_is_used_up_has_nothing_to_release() -> None:
    lease = a_lease(until=NOW + 10)
    lease.take(10, NOW)
    assert decide_release(lease) == []


def test_the_floor_of_a_fence_is_beyond_every_lease_that_can_have_been_lost() -> None:
    lost = Known(5, NOW + 10**10)
    assert decide_floor([], now=NOW, workers_stopped=False).floor >= NOW + AHEAD + MAX_LEASE
    assert decide_floor([lost], now=NOW, workers_stopped=False).floor >= lost.until
    assert NOW + AHEAD < decide_floor([], now=NOW, workers_stopped=True).floor < NOW + 3 * AHEAD


def test_lifting_a_lane_twice_changes_nothing() -> None:
    floor = NOW + MAX_LEASE + AHEAD
    (lifted,) = decide_lift(fold(granted(NOW, NOW + 5)), floor, NOW)
    assert lifted == LaneFenced(floor)
    assert decide_lift(fold(granted(NOW, NOW + 5), lifted), floor, NOW) == []


def test_a_lane_that_was_granted_beyond_the_floor_is_left_alone() -> None:
    floor = NOW
    assert decide_lift(fold(LaneFenced(floor), granted(NOW, NOW + 5)), floor, NOW) == []


def test_a_fence_covers_what_was_known_only_if_it_reaches_its_end() -> None:
    assert fence_covers([LaneFenced(100)], Known(5, 100))
    assert not fence_covers([LaneFenced(99), granted(99, 200)], Known(5, 100))


# --- layout and choice -----------------------------------------------------------------------


def test_a_new_store_is_pinned_and_a_pinned_one_accepted_only_as_it_is() -> None:
    ours = LaneRange(0, 511)
    assert decide_layout(None, ours) == [layout_for(ours)]
    assert decide_layout(layout_for(ours), ours) == []
    for other in (
        layout_for(LaneRange(0, 1023)),
        replace(layout_for(ours), epoch_us=0),
        replace(layout_for(ours), layout="x"),
    ):
        assert isinstance(decide_layout(other, ours), LayoutMismatch)


@pytest.mark.parametrize(("first", "last"), [(-1, 5), (5, 4), (0, 1024)])
def test_a_range_of_lanes_lies_within_the_layout(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="lanes are numbers"):
        LaneRange(first, last)


@given(st.data(), st.integers(0, 1000), st.integers(0, 23))
def test_every_lane_is_looked_at_once(data: st.DataObject, first: int, width: int) -> None:
    chosen = LaneRange(first, first + width)
    draws = data.draw(st.lists(st.integers(0, width), max_size=50))
    order = list(choose_lanes(chosen, draws, data.draw(st.integers(0, width))))
    assert sorted(order) == list(chosen.numbers())
    if draws:
        assert order[0] == first + draws[0]


# --- the lease -------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(-20_000, 20_000), st.integers(-5000, 5000))))
def test_a_lease_gives_positions_once_in_order_inside_and_near(requests: list[tuple[int, int, int]]) -> None:
    start, until = NOW, NOW + 30_000
    lease, last = a_lease(start, until), start - 1
    for count, moved, hop in requests:
        now, at_least = NOW + moved, NOW + hop
        first = lease.take(count, now, at_least)
        if first is None:
            assert max(last + 1, now, at_least) + count > min(until, now + AHEAD)
            continue
        assert max(last + 1, start, now, at_least) == first
        assert first + count <= until
        last = first + count - 1
    assert lease.last == last


def test_a_lease_goes_on_after_the_last_id_of_the_lease_before() -> None:
    assert a_lease(last=NOW + 100).take(1, NOW) == NOW + 101


def test_a_lease_gives_nothing_further_ahead_than_a_second() -> None:
    lease = a_lease()
    assert lease.take(AHEAD + 1, NOW) is None
    assert lease.take(AHEAD, NOW) == NOW
    assert lease.take(1, NOW) is None
    assert lease.take(1, NOW + 1) == NOW + AHEAD


def test_a_lease_is_due_at_half() -> None:
    assert position_of(a_lease(0, 100).renew_id) == 50


# --- the proof -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        [(0, granted(0, 10)), (1, granted(9, 20))],
        [(0, granted(0, 10)), (2, granted(10, 20))],
        [(1, granted(0, 10))],
        [(0, granted(10, 10))],
        [(0, granted(0, 10)), (1, LaneReleased("somebody else", 5))],
        [(0, granted(0, 10)), (1, LaneReleased(str(ME.token), 11))],
        [(0, granted(0, 10)), (1, LaneReleased(str(ME.token), 5)), (2, LaneReleased(str(ME.token), 4))],
        [(0, LaneReleased(str(ME.token), 5))],
        [(0, granted(0, 10)), (1, LaneFenced(9))],
    ],
)
def test_the_proof_finds(events: list[tuple[int, Event]]) -> None:
    history = LaneHistory(7)
    for version, event in events:
        history.add(version, 0, event)
    assert history.problems


def test_the_grant_of_a_position_is_found_up_to_its_release_and_not_at_it() -> None:
    history = LaneHistory(7)
    for version, event in enumerate(
        [granted(10, 20), LaneReleased(str(ME.token), 15), granted(15, 30, "next")]
    ):
        history.add(version, 1000 + version, event)
    owners = {position: grant.owner for position in range(40) if (grant := history.covering(position))}
    assert owners == {p: str(ME.token) if p < 15 else "next" for p in range(10, 30)}


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LeaseExhausted(1_800_000_000_000_000, "sqlite:events.db"), "2027-01-15T08:00:00.000000Z and the event store sqlite"),
        (LeaseExhausted(None, "sqlite:events.db"), "no lease yet"),
        (NoFreeLane(1024, 1_800_000_000_000_000), "none of the 1024 lanes of ids is free; the first becomes free at 2027"),
        (ClockRejected(3_600_000_000), "3600.0 s behind"),
        (LayoutMismatch("one", "other"), "layout one; this worker makes other"),
        (StoreWentBack("lane-7", 5, 3), "lane-7 is at version 3, but version 5 was seen"),
        (AheadLimit(1_500_000, 1_000_000), "1.500 s ahead of the clock; the limit is 1.000 s"),
    ],
)  # fmt: skip
def test_an_error_says_what_happened_and_what_to_do(error: EsError, said: str) -> None:
    assert said in str(error)
    assert error.hint != EsError.hint
    assert set(error.to_wire()) == {"code", "kind", "message", "hint"}


def test_the_state_of_no_events_is_the_initial_one() -> None:
    assert lane_from_tail(7, []) == Lane(7)
    assert stream_of(7) == "lane-7"
