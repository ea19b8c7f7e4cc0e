"""People whose events are gone, truncated or unknown are erased all the same, as long as the vault knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from adapters.eventstoredb.driver import EventStoreDBClient
from adapters.eventstoredb.event_store import EventStoreDbStore
from adapters.memory.event_store import MemoryStore
from domain.kernel.errors import Damaged
from domain.kernel.events import BEGINNING
from domain.kernel.orders import Done, Order
from domain.kernel.ports.vault import Claim, Destruction, Reason
from domain.users.account import USER, ErasureCompleted, UserErased
from domain.users.commands import CompleteErasure, UserCommand
from domain.users.errors import UserNotFound
from tests.support.accounts import ADA, GRACE, Accounts, delete, erase, rename
from tests.support.builders import metadata
from tests.support.node import Node
from tests.support.parts import replaced
from tests.support.waiting import DEADLINE_S


@pytest.fixture
def node() -> Iterator[Node]:
    with closing(Node()) as node:
        yield node


@pytest.fixture
def people(tmp_path: Path, node: Node) -> Iterator[Accounts]:
    """Accounts over a test node."""
    with closing(Accounts(tmp_path / "accounts")) as opened:
        opened.store.close()
        opened.store = EventStoreDbStore(node.url, call_timeout_s=DEADLINE_S, settle_s=DEADLINE_S)
        yield opened


@pytest.fixture
def admin(node: Node, people: Accounts) -> Iterator[EventStoreDBClient]:
    with closing(EventStoreDBClient(node.url)) as client:
        yield client


def test_damage_of_one_lost_person_hinders_the_erasure_of_no_other(
    people: Accounts, admin: EventStoreDBClient
) -> None:
    ada, grace = people.a_user(ADA), people.a_user(GRACE)
    for user_id in (ada, grace):
        admin.delete_stream(USER.stream_of(user_id), current_version=0, timeout=DEADLINE_S)

    def claims_of(subjects: Sequence[int], *, now_us: int) -> list[Claim]:
        if ada in subjects:
            raise Damaged("vault", "a page of one person is torn")
        return people.vault.claims_of(subjects, now_us=now_us)

    vault = replaced(people.vault, claims_of=claims_of)
    damaged, erased = people.service(vault=vault).handle([erase(ada), erase(grace)])

    assert isinstance(damaged, Damaged)
    assert isinstance(erased, dict)
    (last,) = people.store.read_stream(USER.stream_of(grace), backwards=True, limit=1)
    assert last.type == UserErased.type


Loss = Callable[[EventStoreDBClient, str], object]
LOSSES: dict[str, Loss] = {
    "deleted": lambda admin, stream: admin.delete_stream(stream, current_version=1, timeout=DEADLINE_S),
    "truncated": lambda admin, stream: admin.set_stream_metadata(
        stream, metadata={"$maxCount": 1}, timeout=DEADLINE_S
    ),
}
each_loss = pytest.mark.parametrize("lose", LOSSES.values(), ids=list(LOSSES))


def tombstone(admin: EventStoreDBClient, user_id: int) -> None:
    admin.tombstone_stream(USER.stream_of(user_id), current_version=1, timeout=DEADLINE_S)


def a_renamed_user(people: Accounts) -> int:
    user_id = people.a_user(ADA)
    people.done(rename(user_id))
    return user_id


def last_type(people: Accounts, user_id: int) -> str:
    (last,) = people.store.read_stream(USER.stream_of(user_id), backwards=True, limit=1)
    return last.type


def lose_all_events(accounts: Accounts) -> None:
    accounts.store = MemoryStore(now_us=lambda: accounts.now_us)


@each_loss
def test_the_erasure_of_a_person_whose_stream_was_cut_is_decided_once(
    people: Accounts, admin: EventStoreDBClient, lose: Loss
) -> None:
    user_id, command = a_renamed_user(people), uuid4()
    lose(admin, USER.stream_of(user_id))

    first = people.done(erase(user_id, command))

    assert last_type(people, user_id) == UserErased.type
    assert first["version"] == 2, "the numbering goes on"
    assert people.done(erase(user_id, command)) == first
    assert people.done(erase(user_id))["version"] == 2, "decided once"
    assert people.vault.owed_of(user_id) is None, "the event suffices: `erasures` lists it"


@each_loss
def test_the_erasure_of_a_person_whose_stream_was_cut_can_be_completed(
    people: Accounts, admin: EventStoreDBClient, lose: Loss
) -> None:
    user_id = a_renamed_user(people)
    lose(admin, USER.stream_of(user_id))
    people.done(erase(user_id))

    completion: Order[UserCommand] = Order(
        CompleteErasure(user_id, 0), USER.stream_of(user_id), user_id, metadata()
    )
    outcomes = [people.handler().handle([completion])[0] for _ in range(2)]

    assert [outcome.version for outcome in outcomes if isinstance(outcome, Done)] == [3, 3]
    assert last_type(people, user_id) == ErasureCompleted.type


def test_the_erasure_of_a_person_whose_stream_has_a_tombstone_is_listed_in_the_vault(
    people: Accounts, admin: EventStoreDBClient
) -> None:
    user_id, other = a_renamed_user(people), people.a_user(GRACE)
    tombstone(admin, user_id)

    erased, renamed = people.handle(erase(user_id), rename(other))

    position = people.store.head()
    assert isinstance(erased, dict)
    assert erased["user_id"] == str(user_id)
    assert isinstance(renamed, dict), "the others continue"
    owed = people.vault.owed_of(user_id)
    assert owed is not None
    assert (owed.decided.event_id, 0 < owed.decided.position <= position) == (None, True)
    assert people.vault.data_keys([user_id]).keys() == {user_id}
    people.done(erase(user_id))
    assert people.vault.owed_of(user_id) == owed, "listed once"


def test_other_commands_for_a_lost_stream_fail_as_before(people: Accounts, admin: EventStoreDBClient) -> None:
    user_id = a_renamed_user(people)
    LOSSES["truncated"](admin, USER.stream_of(user_id))

    for asked in (rename(user_id), delete(user_id)):
        (reply,) = people.handle(asked)
        assert isinstance(reply, Damaged)


def test_without_a_row_in_the_vault_there_is_no_such_user(
    people: Accounts, admin: EventStoreDBClient
) -> None:
    user_id = a_renamed_user(people)
    people.change_vault("DELETE FROM email_claims")
    people.change_vault("DELETE FROM data_keys")
    LOSSES["deleted"](admin, USER.stream_of(user_id))

    assert people.handle(erase(user_id), erase(77)) == [UserNotFound(user_id), UserNotFound(77)]


def test_without_a_row_in_the_vault_a_tombstone_stays_damage(
    people: Accounts, admin: EventStoreDBClient
) -> None:
    user_id = a_renamed_user(people)
    people.change_vault("DELETE FROM email_claims")
    people.change_vault("DELETE FROM data_keys")
    tombstone(admin, user_id)

    (reply,) = people.handle(erase(user_id))

    assert isinstance(reply, Damaged)
    assert people.vault.owed_of(user_id) is None


# --- every store -----------------------------------------------------------------------------


def test_a_registration_that_is_under_way_cannot_be_erased(accounts: Accounts) -> None:
    accounts.reserve(ADA, 1000, registers=True)

    assert accounts.handle(erase(1000)) == [UserNotFound(1000)]
    assert accounts.store.head() == BEGINNING


def test_an_abandoned_registration_is_nobody(accounts: Accounts) -> None:
    accounts.reserve(ADA, 1000, registers=True)
    accounts.vault.destroy([Destruction(1000, Reason.ABANDONED)], now_us=accounts.now_us)

    assert accounts.handle(erase(1000)) == [UserNotFound(1000)]


@pytest.mark.parametrize("data", [b"", b"{}", b"not JSON"])
@pytest.mark.parametrize("type_", ["user-promoted.v9", "", "user-registered.v1"])
def test_a_person_whose_first_event_is_unreadable_can_be_erased(
    accounts: Accounts, type_: str, data: bytes
) -> None:
    user_id = accounts.a_user(ADA)
    lose_all_events(accounts)
    accounts.store_event(user_id, type_, data)

    accounts.done(erase(user_id))

    assert last_type(accounts, user_id) == UserErased.type


def test_the_erasure_of_a_person_without_a_key_says_so(accounts: Accounts) -> None:
    user_id, other = accounts.a_user(ADA), accounts.a_user(GRACE)
    accounts.change_vault("DELETE FROM data_keys WHERE subject = ?", user_id)

    assert accounts.done(erase(user_id))["key"] == "missing"
    assert "key" not in accounts.done(erase(other))


def test_a_deleted_user_without_claims_or_events_can_be_erased(accounts: Accounts) -> None:
    user_id = accounts.a_user(ADA)
    accounts.done(delete(user_id))
    accounts.claims().settle([user_id])
    lose_all_events(accounts)

    accounts.done(erase(user_id))

    assert last_type(accounts, user_id) == UserErased.type
