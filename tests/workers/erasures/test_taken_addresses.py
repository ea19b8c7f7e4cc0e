"""An address that is taken is refused without reading its holder, but never because a deletion was not settled yet."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from domain.kernel.messages import Reply, Request
from domain.users.errors import EmailTaken
from tests.support.accounts import ADA, ALAN, GRACE, change, create, delete, rename
from tests.support.erasures import Erasures
from tests.support.parts import Steps, before_call


def asked(erasures: Erasures, request: Request) -> tuple[Reply, list[str]]:
    """The reply to a request, and the calls of the parts."""
    steps = Steps()
    service = erasures.service(**steps.watched(store=erasures.store, vault=erasures.vault))
    (reply,) = service.handle([request])
    return reply, steps.calls


def test_while_all_claims_are_settled_no_stream_of_a_holder_is_read(erasures: Erasures) -> None:
    erasures.a_user(ADA)
    erasures.run()

    reply, calls = asked(erasures, create(ADA))

    assert reply == EmailTaken()
    assert calls == ["vault.reserve", "store.head", "vault.checkpoint", "vault.reserve"]


@pytest.mark.parametrize("free", [delete, lambda user: change(user, GRACE)])
def test_an_address_is_free_at_once_after_a_deletion_or_a_change(
    erasures: Erasures, free: Callable[[int], Request]
) -> None:
    user_id = erasures.a_user(ADA)
    erasures.run()
    erasures.done(free(user_id))

    reply, _ = asked(erasures, create(ADA))

    assert isinstance(reply, dict)


def test_with_events_ahead_of_the_settling_the_stream_of_the_holder_decides(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)
    erasures.run()
    erasures.done(rename(user_id))

    reply, calls = asked(erasures, create(ADA))

    assert reply == EmailTaken()
    assert "store.read_streams" in calls


def test_an_address_that_is_settled_before_the_look_at_the_checkpoint_is_free(erasures: Erasures) -> None:
    user_id = erasures.a_user(ADA)

    def meanwhile() -> None:
        erasures.done(delete(user_id))
        erasures.run()

    service = erasures.service(store=before_call(erasures.store, "head", meanwhile))
    (reply,) = service.handle([create(ADA)])

    assert isinstance(reply, dict), "the claim was read before it was released"


def test_a_reserved_address_is_settled_whatever_the_checkpoint(erasures: Erasures) -> None:
    erasures.reserve(ALAN, 77, registers=True)
    erasures.let_reservations_expire()

    reply, _ = asked(erasures, create(ALAN))

    assert isinstance(reply, dict)
