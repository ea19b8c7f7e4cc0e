"""Dead letters of other services: removed with the person whose data they hold, and with no other one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from adapters.log import Log
from domain.kernel.messages import Body
from tests.support.accounts import ADA, GRACE, erase, rename
from tests.support.erasures import Erasures, Letters


class Services(Erasures):
    features = ("tests.support.leases",)


@pytest.fixture
def services(tmp_path: Path, log: Log) -> Iterator[Services]:
    with closing(Services(tmp_path / "services", log)) as opened:
        yield opened


def letter(kind: str, **given: str) -> Body:
    return {"kind": kind, "body": {"command_id": str(uuid4()), "input": given}}


def test_a_letter_that_names_the_person_is_removed_and_one_of_another_person_stays(
    services: Services,
) -> None:
    ada, grace = services.a_user(ADA), services.a_user(GRACE)
    services.done(rename(ada, "Ada Lovelace"))
    others = [
        letter("leases.sign", tenant_id=str(grace), tenant="Ada Lovelace", flat="attic"),
        letter("leases.hand-over", lease_id="5", to_id=str(grace), to_name="Ada Lovelace"),
    ]
    letters = Letters(
        letter("leases.sign", tenant_id=str(ada), tenant="Any Name", flat="attic"),
        letter("leases.hand-over", lease_id="5", to_id=str(ada), to_name="Any Name"),
        letter("leases.pay", lease_id="5", amount=ADA),
        *others,
    )

    services.done(erase(ada))
    services.run(dead_letters=letters)

    assert letters.items == others


def test_a_field_names_persons_in_requests_of_its_own_kind_only(services: Services) -> None:
    ada, grace = services.a_user(ADA), services.a_user(GRACE)
    letters = Letters(letter("shelves.open", tenant_id=str(grace), label=ADA))

    services.done(erase(ada))
    services.run(dead_letters=letters)

    assert letters.items == []
