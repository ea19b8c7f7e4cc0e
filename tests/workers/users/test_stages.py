"""A batch whose addresses are reserved before the one before it is completed has the same replies and effects."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from domain.kernel.messages import Reply, Request
from domain.kernel.ports.vault import ClaimState
from domain.users.errors import EmailTaken, UserIsDeleted
from tests.support.accounts import ADA, ALAN, GRACE, Accounts, change, create, delete, rename

Pair = Callable[[int], tuple[Request, Request]]
C = UUID(int=1)

PAIRS: dict[str, tuple[Pair, type[object], dict[str, bool]]] = {
    "a freed address is registered": (lambda user: (delete(user), create(ADA)), dict, {ADA: True}),
    "a left address is registered": (
        lambda user: (change(user, GRACE), create(ADA)),
        dict,
        {ADA: True, GRACE: True},
    ),
    "an address is registered twice": (
        lambda user: (create(GRACE), create(GRACE)),
        EmailTaken,
        {GRACE: True},
    ),
    "an address is taken by a change": (
        lambda user: (change(user, GRACE), create(GRACE)),
        EmailTaken,
        {ADA: False, GRACE: True},
    ),
    "a user changes there and back": (
        lambda user: (change(user, GRACE), change(user, ADA)),
        dict,
        {ADA: True, GRACE: False},
    ),
    "a user changes twice": (
        lambda user: (change(user, GRACE), change(user, ALAN)),
        dict,
        {ADA: False, GRACE: False, ALAN: True},
    ),
    "a registration is repeated": (lambda user: (create(GRACE, C), create(GRACE, C)), dict, {GRACE: True}),
    "a change is repeated": (
        lambda user: (change(user, GRACE, C), change(user, GRACE, C)),
        dict,
        {ADA: False, GRACE: True},
    ),
    "a deleted user changes": (
        lambda user: (delete(user), change(user, GRACE)),
        UserIsDeleted,
        {ADA: False, GRACE: False},
    ),
    "the registration of a refused command": (
        lambda user: (change(user + 1, GRACE), create(GRACE)),
        dict,
        {ADA: True, GRACE: True},
    ),
}
"""Two requests, the reply to the second one, and which addresses have an owner at the end."""


@pytest.mark.parametrize("pair", PAIRS)
def test_the_second_of_two_overlapping_batches_sees_the_first(accounts: Accounts, pair: str) -> None:
    requests, expected, owned = PAIRS[pair]
    first, second = requests(accounts.a_user(ADA))
    service = accounts.service()

    earlier = service.begin([first])
    later = service.begin([second])
    (one,) = service.complete(earlier)
    (two,) = service.complete(later)

    assert isinstance(two, expected), (one, two)
    if first.body["command_id"] == second.body["command_id"]:
        assert one == two
    accounts.claims().settle(user for user, _ in accounts.active())
    for user in accounts.with_keys():
        accounts.claims().settle([user])
    found = {email for _, email in accounts.active()}
    assert {email: email in found for email in owned} == owned
    assert {email: holder is not None for email, holder in _holders(accounts, *owned).items()} == owned
    for user, _ in accounts.active():
        assert accounts.states(user) == [ClaimState.CONFIRMED]


def _holders(accounts: Accounts, *emails: str) -> dict[str, int | None]:
    return dict(zip(emails, accounts.holders(*emails), strict=True))


def test_commands_to_a_stream_keep_their_order_over_batches(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    service = accounts.service()
    batches = [[rename(user_id, f"Name {number}", uuid4())] for number in range(5)]

    replies: list[Reply] = []
    begun = service.begin(batches[0])
    for following in [*batches[1:], []]:
        ahead = service.begin(following)
        replies += service.complete(begun)
        begun = ahead

    assert [reply["version"] for reply in replies if isinstance(reply, dict)] == [1, 2, 3, 4, 5]
