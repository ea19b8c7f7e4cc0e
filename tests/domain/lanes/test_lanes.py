"""Lanes: state, grants, leases, fences, the layout, the audit and the errors."""

from __future__ import annotations

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
from domain.lanes import errors, grants
from domain.lanes.errors import AheadLimit, LayoutMismatch
from domain.lanes.events import LaneFenced, LaneGranted, LaneQuarantined, LaneReleased, lane_stream
from domain.lanes.fences import Known, decide_fence, decide_floor, fence_covers
from domain.lanes.grants import TAIL, Lane, Standing, Worker, evolve, standing
from domain.lanes.history import LaneHistory
from domain.lanes.layout import LaneRange, choose_lanes, decide_layout, layout_for
from domain.lanes.leases import Lease, decide_release, decide_renewal, lease_of
from domain.lanes.limits import AHEAD, MAX_LEASE

ME = Worker(UUID(int=1), "here", 42)
MINE = str(ME.token)
NOW = 10**12
FLOOR = NOW + MAX_LEASE + AHEAD


def granted(start: int, until: int, owner: str = MINE) -> LaneGranted:
    return LaneGranted(owner, "here", 42, start, until)


def released(until: int, owner: str = MINE) -> LaneReleased:
    return LaneReleased(owner, until)


def fold(*events: Event) -> Lane:
    return reduce(evolve, events, Lane(7))


def audit(*events: tuple[int, Event]) -> LaneHistory:
    """The audit of events with their versions, each recorded at 1000 µs + version."""
    history = LaneHistory(7)
    for version, event in events:
        history.add(version, 1000 + version, event)
    return history


def a_lease(start: int = NOW, until: int = NOW + MAX_LEASE, *, last: int = -1, taken: int = 0) -> Lease:
    lease = lease_of(granted(start, until), 7, 3, last=last, offset=0)
    assert taken == 0 or lease.take(taken, start) == start
    return lease


# --- state -----------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """The events that workers with correct code and stepping clocks can store in a lane."""
    events: list[Event] = []
    lane, now = Lane(7), NOW
    for _ in range(draw(st.integers(0, 12))):
        now += draw(st.integers(-2 * MAX_LEASE, 3 * MAX_LEASE))
        worker = Worker(UUID(int=draw(st.integers(1, 3))), "here", 42)
        decided: object = []
        match draw(st.sampled_from(["grant", "release", "renew", "fence", "quarantine"])):
            case "grant":
                length = draw(st.integers(1, MAX_LEASE))
                decided = grants.decide_grant(lane, worker, now=now, at_least=0, length=length)
            case "release" | "renew" as action if events and isinstance(events[-1], LaneGranted):
                last = draw(st.integers(lane.from_position - 1, lane.until - 1))
                lease = lease_of(events[-1], 7, lane.version, last=last, offset=0)
                if action == "release":
                    decided = decide_release(lease)
                else:
                    decided = decide_renewal(lease, ME, now=now, length=MAX_LEASE)
            case "fence":
                decided = decide_fence(lane, now + MAX_LEASE, now)
            case "quarantine":
                decided = grants.decide_quarantine(lane, now)
        if isinstance(decided, list):
            events += decided
            lane = reduce(evolve, decided, lane)
    return events


@given(histories())
def test_the_last_events_give_the_same_state_as_all_events(events: list[Event]) -> None:
    seen, whole = grants.lane_from_tail(7, list(enumerate(events))[-TAIL:]), fold(*events)
    assert not seen.hidden
    assert (seen.version, seen.until, seen.quarantined) == (whole.version, whole.until, whole.quarantined)


@given(histories())
def test_the_grants_of_any_history_are_disjoint(events: list[Event]) -> None:
    history = audit(*enumerate(events))
    assert not history.problems
    ends = sorted((grant.from_position, grant.until) for grant in history.grants)
    assert all(one[1] <= other[0] for one, other in pairwise(ends))


@pytest.mark.parametrize(
    ("later", "until"),
    [
        ([released(15)], 15),
        ([released(15, "another worker")], 20),
        ([LaneFenced(30), released(15)], 30),
        ([LaneFenced(5)], 20),
    ],
)
def test_only_a_release_by_the_owner_lowers_the_end(later: list[Event], until: int) -> None:
    assert fold(granted(10, 20), *later).until == until


@pytest.mark.parametrize("versions", [[5], [4, 5], [2, 3, 5], [1]])
def test_a_lane_with_missing_events_is_hidden(versions: list[int]) -> None:
    lane = grants.lane_from_tail(7, [(version, granted(version, version + 1)) for version in versions])
    assert lane.hidden
    assert standing(lane, NOW) is Standing.HIDDEN
    assert grants.decide_grant(lane, ME, now=NOW, at_least=0, length=1) is Standing.HIDDEN


def test_the_state_of_no_events_is_the_initial_one() -> None:
    assert grants.lane_from_tail(7, []) == Lane(7)
    assert lane_stream(7) == "lane-7"


# --- grants ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lane", "now", "expected"),
    [
        (Lane(7), NOW, [granted(NOW, NOW + 5)]),
        (fold(granted(NOW - 5, NOW)), NOW, [granted(NOW, NOW + 5)]),
        (fold(granted(NOW - 5, NOW + 1)), NOW, Standing.HELD),
        (fold(granted(NOW - 5, NOW + 1)), NOW + 1, [granted(NOW + 1, NOW + 6)]),
    ],
    ids=["new lane", "at the end of the last grant", "before its end", "later"],
)
def test_a_lane_is_granted_once_its_last_grant_has_ended(lane: Lane, now: int, expected: object) -> None:
    assert grants.decide_grant(lane, ME, now=now, at_least=0, length=5) == expected


@given(st.integers(NOW, NOW + 2 * AHEAD), st.integers(-1, 2 * MAX_LEASE))
def test_a_grant_starts_within_a_second_and_is_no_longer_than_a_lease(at_least: int, length: int) -> None:
    decided = grants.decide_grant(Lane(7), ME, now=NOW, at_least=at_least, length=length)
    possible = at_least <= NOW + AHEAD and 0 < length <= MAX_LEASE
    assert isinstance(decided, list if possible else AheadLimit)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (granted(NOW - 5, NOW), Standing.FREE),
        (granted(NOW + AHEAD, NOW + AHEAD + MAX_LEASE), Standing.HELD),
        (granted(NOW + AHEAD + 1, NOW + AHEAD + 2), Standing.POISONED),
        (granted(NOW, NOW + MAX_LEASE + 1), Standing.POISONED),
        (LaneFenced(decide_floor([], now=NOW, workers_stopped=False).floor), Standing.HELD),
    ],
)
def test_only_an_end_that_a_correct_clock_forbids_is_poisoned(event: Event, expected: Standing) -> None:
    assert standing(fold(event), NOW) is expected


def test_a_poisoned_lane_is_marked_once_and_never_rewound() -> None:
    lane = fold(granted(NOW + 10**9, NOW + 10**9 + 5))
    marks = grants.decide_quarantine(lane, NOW)
    assert [type(mark) for mark in marks] == [LaneQuarantined]
    after = evolve(lane, marks[0])
    assert grants.decide_quarantine(after, NOW) == []
    assert after.until == lane.until
    assert standing(after, NOW + 2 * 10**9) is Standing.FREE


# --- leases ----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(-20_000, 20_000), st.integers(-5000, 5000))))
def test_a_lease_issues_positions_once_in_order_inside_and_near(requests: list[tuple[int, int, int]]) -> None:
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


def test_a_lease_continues_after_the_last_id_of_the_lease_before() -> None:
    assert a_lease(last=NOW + 100).take(1, NOW) == NOW + 101


def test_a_lease_issues_nothing_more_than_a_second_ahead() -> None:
    lease = a_lease()
    assert lease.take(AHEAD + 1, NOW) is None
    assert lease.take(AHEAD, NOW) == NOW
    assert lease.take(1, NOW) is None
    assert lease.take(1, NOW + 1) == NOW + AHEAD


def test_a_lease_is_due_at_half() -> None:
    assert position_of(a_lease(0, 100).renew_id) == 50


def test_a_renewal_releases_the_rest_and_grants_a_whole_lease_from_there() -> None:
    renewal = decide_renewal(a_lease(taken=10), ME, now=NOW + 5, length=MAX_LEASE)
    assert renewal == [released(NOW + 10), granted(NOW + 10, NOW + 10 + MAX_LEASE)]


@pytest.mark.parametrize(
    ("lease", "now"),
    [(a_lease(last=NOW + 10), NOW - AHEAD), (a_lease(until=NOW + 10), NOW + 11)],
    ids=["more than a second ahead", "exhausted"],
)
def test_a_lease_is_not_renewed_if_it_is(lease: Lease, now: int) -> None:
    assert isinstance(decide_renewal(lease, ME, now=now, length=MAX_LEASE), AheadLimit)


@pytest.mark.parametrize(("until", "expected"), [(NOW + 11, [released(NOW + 10)]), (NOW + 10, [])])
def test_a_release_gives_up_all_positions_after_the_last_issued(until: int, expected: list[Event]) -> None:
    assert decide_release(a_lease(until=until, taken=10)) == expected


# --- fences ----------------------------------------------------------------------------------


def test_the_floor_of_a_fence_is_beyond_every_lease_that_may_be_lost() -> None:
    lost = Known(5, NOW + 10**10)
    assert decide_floor([], now=NOW, workers_stopped=False).floor >= NOW + AHEAD + MAX_LEASE
    assert decide_floor([lost], now=NOW, workers_stopped=False).floor >= lost.until
    assert NOW + AHEAD < decide_floor([], now=NOW, workers_stopped=True).floor < NOW + 3 * AHEAD


@pytest.mark.parametrize(
    ("past", "floor", "expected"),
    [
        ([granted(NOW, NOW + 5)], FLOOR, [LaneFenced(FLOOR)]),
        ([granted(NOW, NOW + 5), LaneFenced(FLOOR)], FLOOR, []),
        ([LaneFenced(NOW), granted(NOW, NOW + 5)], NOW, []),
    ],
    ids=["below the floor", "fenced", "granted beyond the floor"],
)
def test_a_lane_is_fenced_once(past: list[Event], floor: int, expected: list[Event]) -> None:
    assert decide_fence(fold(*past), floor, NOW) == expected


def test_a_fence_covers_a_known_lane_only_up_to_its_floor() -> None:
    assert fence_covers([LaneFenced(100)], Known(5, 100))
    assert not fence_covers([LaneFenced(99), granted(99, 200)], Known(5, 100))


# --- the layout ------------------------------------------------------------------------------

OURS = LaneRange(0, 511)


def test_a_new_store_is_pinned_and_the_same_layout_accepted() -> None:
    assert decide_layout(None, OURS) == [layout_for(OURS)]
    assert decide_layout(layout_for(OURS), OURS) == []


@pytest.mark.parametrize(
    "change", [{"namespace": layout_for(LaneRange()).namespace}, {"epoch_us": 0}, {"layout": "x"}]
)
def test_another_layout_is_refused(change: dict[str, object]) -> None:
    assert isinstance(decide_layout(replace(layout_for(OURS), **change), OURS), LayoutMismatch)  # type: ignore[arg-type]


@pytest.mark.parametrize(("first", "last"), [(-1, 5), (5, 4), (0, 1024)])
def test_a_range_of_lanes_outside_the_layout_is_refused(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="lanes are numbers"):
        LaneRange(first, last)


@given(st.data(), st.integers(0, 1000), st.integers(0, 23))
def test_every_lane_is_searched_once(data: st.DataObject, first: int, width: int) -> None:
    chosen = LaneRange(first, first + width)
    draws = data.draw(st.lists(st.integers(0, width), max_size=50))
    order = list(choose_lanes(chosen, draws, data.draw(st.integers(0, width))))
    assert sorted(order) == list(chosen.numbers())
    if draws:
        assert order[0] == first + draws[0]


# --- the audit and the errors ----------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        [(0, granted(0, 10)), (1, granted(9, 20))],
        [(0, granted(0, 10)), (2, granted(10, 20))],
        [(1, granted(0, 10))],
        [(0, granted(10, 10))],
        [(0, granted(0, 10)), (1, released(5, "another worker"))],
        [(0, granted(0, 10)), (1, released(11))],
        [(0, granted(0, 10)), (1, released(5)), (2, released(4))],
        [(0, released(5))],
        [(0, granted(0, 10)), (1, LaneFenced(9))],
    ],
)
def test_the_audit_finds(events: list[tuple[int, Event]]) -> None:
    assert audit(*events).problems


def test_a_position_belongs_to_its_grant_until_its_release() -> None:
    history = audit(*enumerate([granted(10, 20), released(15), granted(15, 30, "next")]))
    owners = {position: grant.owner for position in range(40) if (grant := history.covering(position))}
    assert owners == {p: MINE if p < 15 else "next" for p in range(10, 30)}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.LeaseExhausted(1_800_000_000_000_000, "sqlite:events.db"), "2027-01-15T08:00:00.000000Z and the event store sqlite"),
        (errors.LeaseExhausted(None, "sqlite:events.db"), "no lease yet"),
        (errors.NoFreeLane(1024, 1_800_000_000_000_000), "none of the 1024 lanes of ids is free; the first becomes free at 2027"),
        (errors.ClockRejected(3_600_000_000), "3600.0 s behind"),
        (errors.ClockOutOfRange(0), "shows 1970-01-01T00:00:00"),
        (errors.LayoutMismatch("one", "other"), "layout one; this worker makes other"),
        (errors.StoreWentBack("lane-7", 5, 3), "lane-7 is at version 3, but version 5 was seen"),
        (errors.AheadLimit(1_500_000, 1_000_000), "1.500 s ahead of the clock; the limit is 1.000 s"),
    ],
)  # fmt: skip
def test_an_error_says_what_happened_and_what_to_do(error: EsError, text: str) -> None:
    assert text in str(error)
    assert error.hint != EsError.hint
    assert set(error.to_wire()) == {"code", "kind", "message", "hint"}
