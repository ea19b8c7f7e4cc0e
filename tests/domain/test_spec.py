"""The given, when, then of aggregates: it decides twice, and a failure shows both sides."""

from __future__ import annotations

import pytest

from domain.kernel.errors import EsError
from domain.kernel.events import Event
from domain.kernel.personal import Personal
from domain.users.account import INITIAL, UserDeleted, UserRegistered, UserRenamed, decide, evolve
from domain.users.commands import DeleteUser, RenameUser
from domain.users.errors import UserNotFound
from tests.support.spec import Aggregate

users = Aggregate(INITIAL, evolve, decide)
registered = UserRegistered(Personal("ada@example.com"), Personal("Ada"))
rename, renamed = RenameUser(1, Personal("Grace")), UserRenamed(Personal("Grace"))


def test_a_failed_expectation_shows_both_sides_and_personal_values() -> None:
    with pytest.raises(AssertionError) as failed:
        users.given(registered).when(rename).then(UserRenamed(Personal("Ada")))

    story = str(failed.value).splitlines()
    assert "- UserRenamed(name='Ada')" in story
    assert "+ UserRenamed(name='Grace')" in story


def test_a_command_is_decided_a_second_time() -> None:
    forgetful = Aggregate(INITIAL, lambda user, _: user, lambda *_: [UserDeleted()])

    with pytest.raises(AssertionError, match=r"\(repeated\)"):
        forgetful.given().when(DeleteUser(1)).then(UserDeleted())


@pytest.mark.parametrize(
    "outcome", [(), (renamed, renamed), (UserNotFound(1),)], ids=["nothing", "more", "refusal"]
)
def test_another_outcome_than_the_expected_one_fails(outcome: tuple[Event | EsError, ...]) -> None:
    with pytest.raises(AssertionError, match="the first time"):
        users.given(registered).when(rename).then(*outcome)
