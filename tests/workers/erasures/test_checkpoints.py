"""The checkpoint of the list of erasures: never ahead of the list, and read from its beginning once after an upgrade."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from domain.kernel.errors import PartUnavailable
from domain.kernel.events import Position
from domain.kernel.history import History
from domain.users.account import USER, UserErased
from tests.support.accounts import ADA, erase
from tests.support.erasures import Erasures, until_caught_up
from tests.support.parts import replaced
from workers.users.owed import LISTED


def test_the_checkpoint_is_never_ahead_of_the_list(erasures: Erasures) -> None:
    for number in range(3):
        erasures.done(erase(erasures.a_user(f"user{number}@example.com")))
    erased = [r for r in erasures.store.read_all(0, 100) if r.type == UserErased.type]
    saved: list[Position] = []

    def all_listed(reached: History) -> None:
        saved.append(reached.position)
        for recorded in erased:
            assert recorded.position > reached.position or USER.id_of(recorded.stream) in erasures.owed()

    def owe(*args: Any, reached: History, **more: Any) -> None:
        erasures.vault.owe(*args, reached=reached, **more)
        all_listed(reached)

    def save_checkpoint(process: str, reached: History, **more: Any) -> None:
        all_listed(reached)
        erasures.vault.save_checkpoint(process, reached, **more)

    vault = replaced(erasures.vault, save_checkpoint=save_checkpoint, owe=owe)
    erasures.process(vault=vault).run(lambda: False)

    assert saved
    assert erasures.vault.checkpoint(LISTED).position >= erased[-1].position


def a_follower_of(erasures: Erasures, *steps: Callable[[], object]) -> Any:
    """A store whose followers see each step at once, and then end."""

    def follow(after: Position, **more: Any) -> Iterator[Any]:
        for step in (lambda: None, *steps):
            step()
            for item in until_caught_up(erasures.store).follow(after, **more):
                yield item
                after = item.position

    return replaced(erasures.store, follow=follow)


def test_a_vault_that_was_restored_while_nothing_happens_is_noticed(erasures: Erasures) -> None:
    erasures.done(erase(erasures.a_user(ADA)))
    erasures.run()
    restore = partial(erasures.vault.rewind_checkpoint, LISTED, History(1), now_us=erasures.now_us)

    with pytest.raises(PartUnavailable, match="saved in it before"):
        erasures.process(followed=a_follower_of(erasures, restore)).run(lambda: False)

    assert erasures.vault.checkpoint(LISTED).position == 1


def test_no_erasure_moves_the_checkpoint_of_a_restored_vault(
    erasures: Erasures,
) -> None:
    ada, bob = erasures.a_user(ADA), erasures.a_user("bob@example.com")
    before = erasures.store.head()
    followed = a_follower_of(
        erasures,
        lambda: erasures.done(erase(ada)),  # the process lists it, which moves the checkpoint
        lambda: erasures.vault.rewind_checkpoint(LISTED, History(before), now_us=erasures.now_us),
        lambda: erasures.done(erase(bob)),
    )

    with pytest.raises(PartUnavailable, match="saved in it before"):
        erasures.process(followed=followed, monotonic_s=lambda: 0.0).run(lambda: False)

    assert erasures.vault.checkpoint(LISTED).position == before
    assert bob not in erasures.owed()


def test_the_process_starts_from_its_checkpoint(erasures: Erasures) -> None:
    erasures.done(erase(erasures.a_user(ADA)))
    erasures.run()
    checkpoint = erasures.vault.checkpoint(LISTED).position
    started_from: list[Position] = []

    def follow(after: Position, **more: Any) -> Iterator[Any]:
        started_from.append(after)
        return erasures.store.follow(after, **more)

    erasures.process(store=replaced(erasures.store, follow=follow)).run(lambda: False)

    assert started_from == [checkpoint]
    assert checkpoint >= 2


def test_a_home_of_an_earlier_version_is_read_from_its_beginning_once(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.done(erase(user_id))
    for name in ("erasures", "erasures-completed"):  # this user was passed over
        erasures.vault.save_checkpoint(name, History(erasures.store.head()))

    erasures.run()

    assert erasures.is_erased(user_id)
    assert erasures.vault.checkpoint(LISTED).position >= 2
