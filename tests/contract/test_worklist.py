"""The worklist contract: what is opened stays listed until a look says that it has ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from uuid import UUID

import pytest

from domain.kernel.errors import PartUnavailable
from domain.kernel.history import History
from domain.kernel.ports.worklist import Backlog, Look, Opening, OpenInstance, Worklist
from tests.support.vaults import history

OpenWorklist = Callable[[], Worklist]
NOW, LATER = 1_000_000, 2_000_000
FAR = 9_000_000
NAME = "transfer"


def opened(worklist: Worklist, *instances: int, name: str = NAME, now_us: int = NOW) -> None:
    """List instances as the events at the next positions do."""
    listed(worklist, *((instance, "") for instance in instances), name=name, now_us=now_us)


def listed(worklist: Worklist, *openings: tuple[int, str], name: str = NAME, now_us: int = NOW) -> None:
    before = worklist.checkpoint(name)
    first = before.position + 1
    at = [Opening(instance, first + place, held) for place, (instance, held) in enumerate(openings)]
    reached = History(first + len(openings) - 1)
    worklist.open_instances(name, at, reached=reached, since=before.position, now_us=now_us)


def found(worklist: Worklist, instance: int, name: str = NAME) -> OpenInstance:
    listed = worklist.instance(name, instance)
    assert listed is not None
    return listed


def looked(worklist: Worklist, instance: int, **led_to: object) -> None:
    """Keep a look at an instance as it is listed now."""
    revision = found(worklist, instance).revision
    worklist.looked(NAME, [Look(instance, revision, **led_to)])  # type: ignore[arg-type]


def due(worklist: Worklist, now_us: int = NOW, limit: int = 99) -> list[int]:
    return [each.instance for each in worklist.due(NAME, now_us=now_us, limit=limit)]


# --- opening ---------------------------------------------------------------------------------


def test_instances_are_listed_as_due_and_the_checkpoint_moves(
    worklist: Worklist, open_worklist: OpenWorklist
) -> None:
    worklist.open_instances(NAME, [Opening(7, 3), Opening(5, 4)], reached=history(3, 4), now_us=NOW)

    another = open_worklist()
    assert another.checkpoint(NAME) == history(3, 4)
    assert sorted(due(another)) == [5, 7]
    assert found(another, 7) == OpenInstance(NAME, 7, found(another, 7).revision, NOW, NOW, 0, "", "", 0)
    assert worklist.instance(NAME, 6) is None
    assert worklist.instance("other", 7) is None


def test_an_instance_that_is_listed_becomes_due_at_once_and_keeps_its_age(worklist: Worklist) -> None:
    opened(worklist, 7)
    looked(worklist, 7, due_us=FAR, attempts=3, waits_for="a role")

    opened(worklist, 7, now_us=LATER)

    listed = found(worklist, 7)
    assert (listed.opened_at_us, listed.due_us) == (NOW, LATER)
    assert (listed.attempts, listed.waits_for) == (3, "a role")


def test_a_held_event_is_kept_once_and_puts_its_instance_into_quarantine(worklist: Worklist) -> None:
    opened(worklist, 7, 8)
    listed(worklist, (7, "broken"), (8, ""), (9, "wrong"))
    listed(worklist, (7, "another"), (7, "reason"))
    before = worklist.checkpoint(NAME).position
    held_again = [Opening(7, 5, "broken")]
    worklist.open_instances(NAME, held_again, reached=History(9), since=before, now_us=NOW)

    assert worklist.quarantined(NAME, [7, 8, 9, 10]) == {7: "broken", 9: "wrong"}
    assert worklist.quarantined("other", [7]) == {}
    assert worklist.held(NAME, 7, limit=9) == [3, 5, 6, 7]
    assert worklist.held(NAME, 7, limit=2) == [3, 5]
    assert found(worklist, 7).held == 4
    assert found(worklist, 8).held == 0
    assert due(worklist, FAR) == [8]


def test_an_instance_in_quarantine_stays_there_when_it_is_opened(worklist: Worklist) -> None:
    listed(worklist, (7, "broken"))

    opened(worklist, 7)

    assert (found(worklist, 7).error, due(worklist, FAR)) == ("broken", [])


@pytest.mark.parametrize("stored", [3, 5])
def test_nothing_is_listed_unless_the_checkpoint_is_where_the_manager_left_it(
    worklist: Worklist, stored: int
) -> None:
    worklist.save_checkpoint(NAME, history(stored))

    with pytest.raises(PartUnavailable, match=f"transfer is at {stored}, not at 4"):
        worklist.open_instances(NAME, [Opening(7, 9)], reached=history(9), since=4, now_us=NOW)

    assert (worklist.checkpoint(NAME), worklist.instance(NAME, 7)) == (history(stored), None)


@pytest.mark.parametrize("broken", ["instance", "position", "checkpoint"])
def test_if_one_of_them_cannot_be_stored_none_is(worklist: Worklist, broken: str) -> None:
    large = 1 << 70
    opening = Opening(large if broken == "instance" else 7, large if broken == "position" else 3, "held")

    with pytest.raises(Exception):  # noqa: B017  # a bug of the caller: any error is right
        worklist.open_instances(
            NAME,
            [Opening(1, 2), opening],
            reached=History(large if broken == "checkpoint" else 4),
            now_us=NOW,
        )

    assert (worklist.checkpoint(NAME), worklist.instances(limit=9)) == (History(), [])


# --- looking ---------------------------------------------------------------------------------


def test_due_instances_come_longest_due_first_up_to_the_limit(worklist: Worklist) -> None:
    opened(worklist, 1, 2, 3, 4)
    for instance, due_us in [(1, 900), (2, 700), (3, 800), (4, FAR)]:
        looked(worklist, instance, due_us=due_us)

    assert due(worklist) == [2, 3, 1]
    assert due(worklist, limit=2) == [2, 3]
    assert worklist.next_due_us(NAME) == 700
    assert worklist.next_due_us("other") is None


def test_a_look_is_kept(worklist: Worklist, open_worklist: OpenWorklist) -> None:
    opened(worklist, 7)
    looked(worklist, 7, due_us=LATER, attempts=2, waits_for="the role is unavailable")

    listed = found(open_worklist(), 7)
    assert (listed.due_us, listed.attempts, listed.waits_for) == (LATER, 2, "the role is unavailable")
    assert (due(worklist), due(worklist, LATER)) == ([], [7])

    looked(worklist, 7, due_us=None)

    assert (found(worklist, 7).due_us, due(worklist, FAR), worklist.next_due_us(NAME)) == (None, [], None)


def test_an_ended_instance_is_removed_and_others_stay(worklist: Worklist) -> None:
    opened(worklist, 7, 8)
    opened(worklist, 7, name="other")

    looked(worklist, 7, ended=True)

    assert [(each.process, each.instance) for each in worklist.instances(limit=9)] == [
        ("other", 7),
        (NAME, 8),
    ]


def test_an_error_puts_an_instance_into_quarantine(worklist: Worklist) -> None:
    opened(worklist, 7)

    looked(worklist, 7, due_us=LATER, error="broken \\ rules")

    assert worklist.quarantined(NAME, [7]) == {7: "broken \\ rules"}
    assert (found(worklist, 7).due_us, due(worklist, FAR)) == (None, [])


@pytest.mark.parametrize("meanwhile", ["opened", "looked", "removed and opened"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_look_at_an_instance_that_has_changed_since_only_makes_it_due(
    worklist: Worklist, meanwhile: str, ended: bool
) -> None:
    opened(worklist, 7)
    old = found(worklist, 7).revision
    if meanwhile == "looked":
        looked(worklist, 7, due_us=LATER)
    elif meanwhile == "removed and opened":
        looked(worklist, 7, ended=True)
    if meanwhile != "looked":
        opened(worklist, 7)

    late = Look(7, old, due_us=FAR, ended=ended, error="" if ended else "broken", attempts=5, waits_for="x")
    worklist.looked(NAME, [late])

    listed = found(worklist, 7)
    assert (listed.due_us, listed.error, listed.attempts, listed.waits_for) == (0, "", 0, "")


def test_a_late_look_leaves_the_quarantine_of_another_look(worklist: Worklist) -> None:
    opened(worklist, 7)
    old = found(worklist, 7).revision
    looked(worklist, 7, error="broken")

    worklist.looked(NAME, [Look(7, old, due_us=FAR)])

    assert (found(worklist, 7).error, due(worklist, FAR)) == ("broken", [])


def test_a_late_look_lists_no_instance_that_has_ended(worklist: Worklist) -> None:
    opened(worklist, 7)
    old = found(worklist, 7).revision
    looked(worklist, 7, ended=True)

    worklist.looked(NAME, [Look(7, old, due_us=NOW)])
    worklist.looked(NAME, [])

    assert worklist.instances(limit=9) == []


# --- quarantine ------------------------------------------------------------------------------


def test_retry_makes_an_instance_due_and_leaves_it_in_quarantine(worklist: Worklist) -> None:
    listed(worklist, (7, "broken"))

    assert worklist.retry(NAME, 7, now_us=LATER)
    assert not worklist.retry(NAME, 8, now_us=LATER)

    assert (due(worklist), due(worklist, LATER)) == ([], [7])
    assert found(worklist, 7).error == "broken"
    opened(worklist, 7)
    listed(worklist, (7, "held"))
    assert (due(worklist, LATER), found(worklist, 7).held) == ([7], 2)


def test_the_quarantine_ends_with_a_look_once_no_event_is_held(worklist: Worklist) -> None:
    listed(worklist, (7, "broken"), (7, "broken"))
    worklist.retry(NAME, 7, now_us=NOW)

    looked(worklist, 7, due_us=LATER, released=[1])
    assert (found(worklist, 7).error, found(worklist, 7).held, found(worklist, 7).due_us) == ("broken", 1, 0)

    looked(worklist, 7, due_us=LATER, released=[2])
    assert (found(worklist, 7).error, found(worklist, 7).held, found(worklist, 7).due_us) == ("", 0, LATER)


def test_an_ended_instance_with_held_events_stays_in_quarantine(worklist: Worklist) -> None:
    listed(worklist, (7, "broken"))
    worklist.retry(NAME, 7, now_us=NOW)

    looked(worklist, 7, ended=True)
    assert (found(worklist, 7).error, found(worklist, 7).due_us) == ("broken", 0)

    looked(worklist, 7, ended=True, released=[1])
    assert worklist.instance(NAME, 7) is None


def test_a_failed_retry_keeps_the_new_error_and_what_is_still_held(worklist: Worklist) -> None:
    listed(worklist, (7, "broken"), (7, "broken"))
    worklist.retry(NAME, 7, now_us=NOW)

    looked(worklist, 7, error="broken elsewhere", released=[1])

    listed_now = found(worklist, 7)
    assert (listed_now.error, listed_now.held, due(worklist, FAR)) == ("broken elsewhere", 1, [])


def test_a_late_look_releases_the_events_that_it_has_noted(worklist: Worklist) -> None:
    listed(worklist, (7, "broken"))
    worklist.retry(NAME, 7, now_us=NOW)
    old = found(worklist, 7).revision
    listed(worklist, (7, "held"))

    worklist.looked(NAME, [Look(7, old, due_us=FAR, released=[1])])

    assert (worklist.held(NAME, 7, limit=9), found(worklist, 7).error) == ([2], "broken")
    assert due(worklist) == [7]


# --- lists -----------------------------------------------------------------------------------


def test_instances_come_in_pages_in_order_of_process_and_id(worklist: Worklist) -> None:
    opened(worklist, 5, 3)
    opened(worklist, 4, name="other")
    listed(worklist, (9, "broken"))

    def page(**selection: object) -> list[tuple[str, int]]:
        listed = worklist.instances(**{"limit": 9, **selection})  # type: ignore[arg-type]
        return [(each.process, each.instance) for each in listed]

    assert page() == [("other", 4), (NAME, 3), (NAME, 5), (NAME, 9)]
    assert page(limit=2) == [("other", 4), (NAME, 3)]
    assert page(after=(NAME, 3)) == [(NAME, 5), (NAME, 9)]
    assert page(quarantined=True) == [(NAME, 9)]
    assert page(quarantined=True, after=(NAME, 9)) == []


def test_the_backlog_is_counted_up_to_the_limit(worklist: Worklist) -> None:
    assert worklist.backlog(NAME, limit=9) == Backlog(0, 0, None)
    opened(worklist, 1, 2, 3)
    opened(worklist, 4, name="other")
    listed(worklist, (5, "broken"), (6, "broken"))
    looked(worklist, 1, due_us=500)

    assert worklist.backlog(NAME, limit=9) == Backlog(5, 2, 500)
    assert worklist.backlog(NAME, limit=1) == Backlog(1, 1, 500)


# --- the lease -------------------------------------------------------------------------------


def test_a_lease_is_held_by_one_owner_until_it_is_over_or_released(worklist: Worklist) -> None:
    def take(owner: str, now_us: int, name: str = NAME) -> bool:
        return worklist.take_lease(name, owner, now_us=now_us, lease_us=100)

    assert take("a", 1000)
    assert not take("b", 1050)
    assert take("b", 1050, "other")
    assert take("a", 1080)
    assert not take("b", 1179)
    assert take("b", 1180)
    assert not take("a", 1181)

    worklist.release_lease(NAME, "a")
    assert not take("a", 1182)
    worklist.release_lease(NAME, "b")
    assert take("a", 1183)


# --- checkpoints -----------------------------------------------------------------------------


def test_a_checkpoint_starts_at_the_beginning_and_never_moves_backwards(
    worklist: Worklist, open_worklist: OpenWorklist
) -> None:
    assert worklist.checkpoint(NAME) == History()

    worklist.save_checkpoint(NAME, history(41, 42))
    worklist.save_checkpoint(NAME, history(41))
    worklist.open_instances(NAME, [], reached=history(41), since=42, now_us=NOW)

    assert open_worklist().checkpoint(NAME) == history(41, 42)
    assert worklist.checkpoint("other") == History()


@pytest.mark.parametrize("stored", [0, 42])
def test_a_checkpoint_of_an_older_copy_is_not_moved(worklist: Worklist, stored: int) -> None:
    if stored:
        worklist.save_checkpoint(NAME, history(stored))

    with pytest.raises(PartUnavailable, match=f"is at {stored}, not at 43"):
        worklist.save_checkpoint(NAME, history(50), since=43)
    assert worklist.checkpoint(NAME).position == stored

    worklist.save_checkpoint(NAME, history(50), since=stored)
    worklist.save_checkpoint(NAME, history(51), since=stored)
    assert worklist.checkpoint(NAME) == history(51)


def test_a_checkpoint_is_rewound_but_never_forwards(worklist: Worklist) -> None:
    worklist.save_checkpoint(NAME, history(6, 42))
    for position in (50, 42):
        worklist.rewind_checkpoint(NAME, history(position), now_us=NOW)
    assert worklist.checkpoint(NAME) == history(6, 42)

    worklist.rewind_checkpoint(NAME, history(6), now_us=NOW)
    worklist.rewind_checkpoint("other", history(6), now_us=NOW)

    assert worklist.checkpoint(NAME) == history(6)
    assert worklist.checkpoint("other") == History()


# --- the database ----------------------------------------------------------------------------


def test_the_list_survives_closing_and_reopening_and_closing_twice(open_worklist: OpenWorklist) -> None:
    with closing(open_worklist()) as worklist:
        listed(worklist, (7, "broken"), (8, ""))
        before = worklist.instances(limit=9)
        worklist.close()

    assert open_worklist().instances(limit=9) == before


def test_the_list_carries_the_id_of_its_system(worklist: Worklist, open_worklist: OpenWorklist) -> None:
    assert worklist.system_id() is None
    assert worklist.claim_system(UUID(int=1)) == UUID(int=1)
    assert open_worklist().claim_system(UUID(int=2)) == UUID(int=1)
    assert open_worklist().system_id() == UUID(int=1)
