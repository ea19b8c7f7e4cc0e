"""Counts of users: exact, never behind the list, and the same after erasures and after a rebuild."""

from __future__ import annotations

import random
from collections import Counter

from domain.kernel.messages import Body, Request
from domain.users.registrations import REGISTRATIONS, day_of
from tests.support.accounts import ADA, ALAN, GRACE, create, delete, erase
from tests.support.read_side import ReadSide
from workers.projections.rebuild import Rebuild
from workers.runtime.queries import ProjectionBehind


def lived(read_side: ReadSide) -> list[int]:
    """Twenty users; some were deleted, some erased, some both; and what became of them is projected."""
    luck = random.Random(5)
    ids = [read_side.a_user(f"user{number}@example.com") for number in range(20)]
    for user_id in ids:
        for end in luck.choice([[], [delete], [erase], [delete, erase]]):
            read_side.done(end(user_id))
    read_side.project()
    read_side.project_counts()
    return ids


def test_the_counts_are_those_of_the_list(read_side: ReadSide) -> None:
    lived(read_side)
    listed = Counter(user["status"] for user in read_side.answer("users.list")["users"])

    assert min(listed.values()) > 1
    assert read_side.answer("users.count") == {"users": 20, **listed}
    (day,) = read_side.answer("users.registrations")["days"]
    assert day == {"day": day_of(1000), **listed}


def test_an_erasure_and_a_rebuild_leave_the_sum(read_side: ReadSide) -> None:
    ids = lived(read_side)
    for user_id in ids:
        read_side.handle(erase(user_id))
    read_side.project_counts()

    counted = read_side.answer("users.count", fresh=True)
    rebuilt = Rebuild(read_side._filling(REGISTRATIONS)).run(lambda: False)

    assert counted == {"users": 20, "active": 0, "deleted": 0, "erased": 20}
    assert rebuilt is not None
    assert read_side.answer("users.count") == counted
    assert read_side.read_model.parked(REGISTRATIONS, rebuilt) == []


def test_counts_wait_for_what_the_list_shows_and_for_a_position(read_side: ReadSide) -> None:
    read_side.a_user(ADA)
    read_side.project()
    assert read_side.waits(Request("users.count", {})), "the list shows a user that does not count yet"
    assert read_side.waits(Request("users.registrations", {}))
    read_side.project_counts()
    assert read_side.answer("users.count")["users"] == 1
    read_side.a_user("mary@example.com")
    read_side.project()
    assert read_side.waits(Request("users.count", {})), "the list has gone on"
    read_side.project_counts()

    reply = read_side.done(create(GRACE))

    assert read_side.answer("users.count")["users"] == 2, "neither has it"
    for body in ({"fresh": True}, {"after_position": reply["position"]}):
        assert read_side.waits(Request("users.count", body))
    read_side.project_counts()
    assert read_side.answer("users.count", fresh=True)["users"] == 3
    request = Request("users.count", {"fresh": True})
    read_side.done(create(ALAN))
    assert read_side.waits(request)
    read_side.now_s += 7.0
    assert isinstance(read_side.reply_to(request), ProjectionBehind)


def test_a_system_without_users_counts_none(read_side: ReadSide) -> None:
    read_side.project()
    read_side.project_counts()

    assert read_side.answer("users.count") == {"users": 0, "active": 0, "deleted": 0, "erased": 0}
    assert read_side.answer("users.registrations") == {"days": [], "next": None}


def test_days_come_in_pages(read_side: ReadSide) -> None:
    day = 86_400_000 << 22
    ids = iter([1000 + number * day for number in range(5)])
    for number in range(5):
        reply = read_side.service(take_ids=lambda count: [next(ids) for _ in range(count)]).handle(
            [create(f"user{number}@example.com")]
        )[0]
        assert isinstance(reply, dict)
    read_side.project_counts()

    days: list[str] = []
    after: Body = {}
    while True:
        page = read_side.answer("users.registrations", limit=2, **after)
        days += [each["day"] for each in page["days"]]
        if page["next"] is None:
            break
        after = page["next"]

    assert days == [f"2025-01-0{number}" for number in range(1, 6)]


def test_no_other_query_waits_for_counts_that_are_not_filled_yet(read_side: ReadSide) -> None:
    """As at the first start of a version with one more projection: its checkpoint is 0, that of `users` is the head."""
    user_id = read_side.a_user(ADA)
    read_side.project()

    assert read_side.answer("users.get", user_id=str(user_id), fresh=True)["email"] == ADA
    assert read_side.answer("users.find", email=ADA)["user_id"] == str(user_id)
    assert len(read_side.answer("users.list", fresh=True)["users"]) == 1
    assert read_side.waits(Request("users.count", {})), "no number is better than a wrong one"

    read_side.project_counts()

    assert read_side.answer("users.count")["users"] == 1
