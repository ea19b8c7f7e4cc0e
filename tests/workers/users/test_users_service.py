"""The users service over a store in memory and a real vault: batches, crashes at every step, repetition.

What has to hold whatever crashes: one living user per address; what was answered stays; a command that was
cut off may be repeated and has its effect once; nobody keeps an address that they don't use.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters import wiring
from adapters.memory.event_store import MemoryStore
from adapters.sqlite.event_store import SqliteStore
from adapters.sqlite.vault import SqliteVault
from domain.kernel.command_handler import CommandHandler
from domain.kernel.errors import CommandIdReused, EsError, InvalidInput, Kind, PartUnavailable, UnknownRequest
from domain.kernel.events import EventData
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.personal import Personal
from domain.kernel.ports.event_store import Append, Appended, EventStore
from domain.kernel.ports.vault import ClaimState, DestroyedKey, LivingKey, Vault
from domain.users.account import INITIAL, USER, RegistrationAbandoned, Status, User, UserErased, evolve
from domain.users.errors import EmailReserved, EmailTaken, UserIsDeleted, UserIsErased, UserNotFound
from domain.users.reservations import RESERVATION_LIFE_US
from workers.users.claims import Claims
from workers.users.service import UsersService

ADA, GRACE, ALAN = "ada@example.com", "grace@example.com", "alan@example.com"
NOW_US = 1_760_000_000_000_000


# --- the system under test -------------------------------------------------------------------


class People:
    """The parts around people: store, vault, service and janitor, and a clock that is moved by hand."""

    def __init__(self, folder: Path, *, store: EventStore | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.now_us = NOW_US
        self.codec = wiring.open_codec()
        self.store: EventStore = store or MemoryStore(now_us=lambda: self.now_us)
        self.vault_path = folder / "vault.db"
        self.kek = bytes(range(32))
        self.vault: Vault = self.open_vault()
        self._ids = itertools.count(1000)

    def open_vault(self) -> SqliteVault:
        return SqliteVault(self.vault_path, kek=self.kek)

    def close(self) -> None:
        self.vault.close()
        self.store.close()

    def take_ids(self, count: int) -> list[int]:
        return [next(self._ids) for _ in range(count)]

    def service(self, *, store: EventStore | None = None, vault: Vault | None = None) -> UsersService:
        """A worker's service; with parts given, it sees those instead."""
        vault = vault or self.vault
        return UsersService(
            store=store or self.store,
            codec=self.codec,
            vault=vault,
            keyring=wiring.keyring_of(vault),
            take_ids=self.take_ids,
            now_us=lambda: self.now_us,
            new_id=uuid4,
            pause=lambda _: None,
        )

    def claims(self, *, store: EventStore | None = None, vault: Vault | None = None) -> Claims:
        return Claims(
            store=store or self.store,
            codec=self.codec,
            vault=vault or self.vault,
            now_us=lambda: self.now_us,
            new_id=uuid4,
            pause=lambda _: None,
        )

    def handler(self, *, store: EventStore | None = None, vault: Vault | None = None) -> Any:
        return CommandHandler(
            USER,
            store=store or self.store,
            codec=self.codec,
            keyring=wiring.keyring_of(vault or self.vault),
            pause=lambda _: None,
        )

    def handle(self, *requests: Request) -> list[Reply]:
        return self.service().handle(requests)

    def done(self, request: Request) -> Body:
        """Handle one request that has to succeed."""
        (reply,) = self.handle(request)
        assert isinstance(reply, dict), reply
        return reply

    def a_user(self, email: str = ADA) -> int:
        return int(self.done(create(email))["user_id"])

    def let_reservations_expire(self) -> None:
        self.now_us += RESERVATION_LIFE_US + 1

    def user(self, user_id: int) -> User:
        """The account as its stream has it, opened."""
        keyring = wiring.keyring_of(self.vault)([user_id])
        user = INITIAL
        for recorded in self.store.read_stream(USER.stream_of(user_id)):
            user = evolve(user, self.codec.decode(recorded, subject=user_id, opener=keyring))
        return user

    def users(self) -> dict[int, User]:
        names = [name for name, _ in self.store.streams(prefix=USER.prefix, limit=10_000)]
        return {USER.id_of(name): self.user(USER.id_of(name)) for name in names}

    def living(self) -> list[tuple[int, str]]:
        """Every living user with their address."""
        found = []
        for user_id, user in self.users().items():
            if user.status is Status.ACTIVE:
                assert isinstance(user.email, Personal), "a living user's address can be read"
                found.append((user_id, user.email.value))
        return found

    def states(self, user_id: int) -> list[ClaimState]:
        return [claim.state for claim in self.vault.claims_of(user_id, now_us=self.now_us)]

    def types(self, user_id: int) -> list[str]:
        return [recorded.type for recorded in self.store.read_stream(USER.stream_of(user_id))]


def request(kind: str, command: UUID | None = None, /, **input_: str) -> Request:
    body = {"input": input_, "command_id": str(command or uuid4()), "actor": "uid:1000"}
    return Request(f"users.{kind}", body)


def create(email: str = ADA, command: UUID | None = None) -> Request:
    return request("create", command, email=email, name="Some Body")


def rename(user_id: int, name: str = "Other Name", command: UUID | None = None) -> Request:
    return request("rename", command, user_id=str(user_id), name=name)


def change(user_id: int, email: str, command: UUID | None = None) -> Request:
    return request("change-email", command, user_id=str(user_id), email=email)


def delete(user_id: int, command: UUID | None = None) -> Request:
    return request("delete", command, user_id=str(user_id))


def erase(user_id: int, command: UUID | None = None) -> Request:
    return request("erase", command, user_id=str(user_id), basis="art. 17(1)(a)")


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    with closing(People(tmp_path / "people")) as opened:
        yield opened


# --- crashes ---------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here: nothing that the code under test catches."""


class Steps:
    """Counts the calls of parts, and ends the process before or after one of them."""

    def __init__(self, crash_at: int | None = None, *, after: bool = False) -> None:
        self.calls: list[str] = []
        self._crash_at = crash_at
        self._after = after

    def watched(self, part: Any, name: str) -> Any:
        steps = self

        class Watched:
            def __getattr__(self, method: str) -> Callable[..., Any]:
                return lambda *args, **more: steps.step(
                    f"{name}.{method}", lambda: getattr(part, method)(*args, **more)
                )

        return Watched()

    def step(self, what: str, do: Callable[[], Any]) -> Any:
        self.calls.append(what)
        here = len(self.calls) - 1 == self._crash_at
        if here and not self._after:
            raise Crash(what)
        result = do()
        if here:
            raise Crash(what)
        return result


def every_crash(run: Callable[[Steps], object]) -> Iterator[tuple[int, bool]]:
    """Every (step, before or after it) at which a run can end; `run` does it once to count."""
    steps = Steps()
    run(steps)
    assert steps.calls
    yield from itertools.product(range(len(steps.calls)), (False, True))


def crashed(run: Callable[[Steps], object], at: int, *, after: bool) -> str:
    """Run until the crash; where it was."""
    steps = Steps(at, after=after)
    with pytest.raises(Crash) as crash:
        run(steps)
    return f"{'after' if after else 'before'} {crash.value} (step {at})"


class Hooked:
    """A store or vault that does something else first, once, when a method is called."""

    def __init__(self, part: Any, method: str, first: Callable[[], object], *, at: int = 1) -> None:
        self._part, self._method, self._first, self._at = part, method, first, at

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            self._at -= 1
            if self._at == 0:
                self._first()
        return getattr(self._part, name)


# --- plain commands --------------------------------------------------------------------------


def test_a_registration_is_answered_with_its_user_version_and_position(people: People) -> None:
    command = uuid4()

    reply = people.done(create(ADA, command))

    user_id = int(reply["user_id"])
    assert reply == {"command_id": str(command), "user_id": str(user_id), "version": 0, "position": 1}
    assert people.living() == [(user_id, ADA)]
    assert people.states(user_id) == [ClaimState.CONFIRMED]


def test_every_command_has_its_effect(people: People) -> None:
    user_id = people.a_user(ADA)

    people.done(rename(user_id, "Countess"))
    people.done(change(user_id, GRACE))
    assert people.user(user_id).name == Personal("Countess")
    assert people.living() == [(user_id, GRACE)]
    people.done(delete(user_id))
    assert people.user(user_id).status is Status.DELETED
    people.done(erase(user_id))
    assert people.user(user_id).status is Status.ERASED


def test_what_is_stored_is_sealed_and_names_who_asked(people: People) -> None:
    command = uuid4()
    user_id = people.a_user(ADA)
    people.done(change(user_id, "canary-77aa@example.com", command))

    (recorded,) = people.store.read_stream(USER.stream_of(user_id), 1)

    metadata = people.codec.metadata(recorded)
    assert (metadata.command_id, metadata.command, metadata.actor) == (command, "change-email", "uid:1000")
    assert (metadata.correlation_id, metadata.causation_id) == (command, command)
    assert b"canary" not in recorded.data + recorded.metadata + recorded.stream.encode()


def test_nothing_happens_where_it_is_so_already(people: People) -> None:
    user_id = people.a_user(ADA)
    head = people.store.head()

    replies = people.handle(rename(user_id, "Some Body"), change(user_id, ADA.upper()))

    assert [reply["version"] for reply in replies if isinstance(reply, dict)] == [0, 0]
    assert people.store.head() == head
    assert people.states(user_id) == [ClaimState.CONFIRMED]


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        (create("no address"), "email"),
        (request("create", email=ADA, name=""), "name"),
        (request("create", email=ADA), "name"),
        (request("create", email=ADA, name="Ada", admin="yes"), "input"),
        (request("rename", user_id="x", name="Ada"), "user_id"),
        (request("rename", user_id="-1", name="Ada"), "user_id"),
        (request("erase", user_id="1000", basis=""), "basis"),
        (Request("users.create", {"input": [], "command_id": str(uuid4())}), "input"),
        (Request("users.create", {}), "input"),
        (Request("users.create", {"input": {"email": ADA, "name": "A"}, "command_id": "1"}), "command_id"),
        (Request("users.create", {"input": {"email": ADA, "name": "A"}}), "command_id"),
        (Request("users.create", {"input": {"email": ADA, "name": "A"}, "command_id": 5}), "command_id"),
        (Request("users.create", {"input": {"email": 5, "name": "A"}, "command_id": str(uuid4())}), "email"),
    ],
    ids=range(13),
)
def test_a_request_that_is_wrong_is_refused_alone(people: People, asked: Request, wrong: str) -> None:
    refused, done = people.handle(asked, create(GRACE))

    assert isinstance(refused, InvalidInput)
    assert refused.field == wrong
    assert isinstance(done, dict)
    assert [email for _, email in people.living()] == [GRACE]


def test_an_unknown_request_is_refused_alone(people: People) -> None:
    refused, done = people.handle(Request("users.explode", {}), create(GRACE))

    assert refused == UnknownRequest("users.explode")
    assert isinstance(done, dict)


def test_what_is_wrong_with_an_input_does_not_repeat_it(people: People) -> None:
    canary = "canary-5f1d"
    wrong = [
        create(f"{canary}@@example.com"),
        request("create", email=ADA, name=f"{canary}\x00"),
        request("rename", user_id=canary, name="Ada"),
        request("create", email=ADA, name="Ada", **{canary: "1"}),
    ]

    replies = people.handle(*wrong)

    assert all(isinstance(reply, EsError) for reply in replies)
    assert canary not in json.dumps([reply.to_wire() for reply in replies if isinstance(reply, EsError)])


@pytest.mark.parametrize("email", [ADA, "ADA@Example.COM", "  ada@example.com "])
def test_a_taken_address_is_refused_however_it_is_written(people: People, email: str) -> None:
    first = people.a_user(ADA)
    head = people.store.head()

    (reply,) = people.handle(create(email))

    assert reply == EmailTaken()
    assert people.store.head() == head
    assert people.vault.data_keys(range(1000, 1100)).keys() == {first}, "no key for a refused registration"


def test_commands_for_people_who_are_not_or_not_any_more_are_refused_and_hold_nothing(people: People) -> None:
    deleted, erased = people.a_user(ADA), people.a_user(GRACE)
    people.handle(delete(deleted), erase(erased))

    replies = people.handle(
        change(5, "new5@example.com"),
        change(deleted, "new6@example.com"),
        change(erased, "new7@example.com"),
        rename(5),
        rename(deleted),
        rename(erased),
        delete(5),
        erase(5),
    )

    assert replies == [
        UserNotFound(5),
        UserIsDeleted(deleted),
        UserIsErased(erased),
        UserNotFound(5),
        UserIsDeleted(deleted),
        UserIsErased(erased),
        UserNotFound(5),
        UserNotFound(5),
    ]
    assert [people.vault.holder(f"new{number}@example.com") for number in (5, 6, 7)] == [None] * 3
    assert list(people.store.read_stream(USER.stream_of(5))) == []


# --- batches ---------------------------------------------------------------------------------


def test_a_batch_is_one_reservation_one_append_and_one_confirmation(people: People) -> None:
    user_id = people.a_user(ADA)
    steps = Steps()
    service = people.service(
        store=steps.watched(people.store, "store"), vault=steps.watched(people.vault, "vault")
    )
    batch = [create(f"user{number}@example.com") for number in range(200)]

    replies = service.handle([*batch, change(user_id, GRACE), rename(5)])

    assert [isinstance(reply, dict) for reply in replies] == [True] * 201 + [False]
    writes = [call for call in steps.calls if call != "store.read_stream"]
    assert writes == ["vault.reserve", "vault.data_keys", "store.append", "vault.confirm"]
    assert steps.calls.count("store.read_stream") == 2, "a new stream needs no load"


def test_replies_come_in_order_of_the_requests(people: People) -> None:
    ids = [people.a_user(f"old{number}@example.com") for number in range(6)]
    kinds: list[Callable[[int], Request]] = [
        lambda id_: rename(id_),
        lambda id_: change(id_, f"new{id_}@example.com"),
        lambda id_: delete(id_),
        lambda id_: rename(id_ + 5000),
        lambda id_: change(id_, "old0@example.com"),
        lambda id_: create("wrong"),
    ]
    batch = [kind(id_) for kind, id_ in zip(kinds, ids, strict=True)]

    replies = people.handle(*batch)

    assert [
        int(reply["user_id"]) if isinstance(reply, dict) else type(reply).__name__ for reply in replies
    ] == [*ids[:3], "UserNotFound", "EmailTaken", "InvalidInput"]


def test_of_several_registrations_of_one_address_in_a_batch_the_first_wins(people: People) -> None:
    replies = people.handle(*(create(ADA) for _ in range(5)))

    winner = int(replies[0]["user_id"])  # type: ignore[index]
    assert replies[1:] == [EmailTaken()] * 4
    assert people.living() == [(winner, ADA)]
    assert people.vault.data_keys(range(1000, 1100)).keys() == {winner}


def test_the_same_registration_twice_in_a_batch_is_one_user(people: People) -> None:
    command = uuid4()

    first, second = people.handle(create(ADA, command), create(ADA, command))

    assert first == second
    assert len(people.living()) == 1


def test_commands_to_one_person_in_a_batch_see_each_other(people: People) -> None:
    user_id = people.a_user(ADA)

    replies = people.handle(rename(user_id, "One"), rename(user_id, "Two"), delete(user_id), rename(user_id))

    assert [reply["version"] for reply in replies if isinstance(reply, dict)] == [1, 2, 3]
    assert replies[3] == UserIsDeleted(user_id)


def test_an_address_that_a_batch_frees_is_taken_in_the_same_batch(people: People) -> None:
    user_id = people.a_user(ADA)
    other = people.a_user(GRACE)

    replies = people.handle(delete(user_id), create(ADA), change(other, ALAN), create(GRACE))

    assert all(isinstance(reply, dict) for reply in replies)
    assert sorted(email for _, email in people.living()) == [ADA, ALAN, GRACE]


def test_two_people_cannot_swap_their_addresses(people: People) -> None:
    ada, grace = people.a_user(ADA), people.a_user(GRACE)

    assert people.handle(change(ada, GRACE), change(grace, ADA)) == [EmailTaken(), EmailTaken()]
    assert people.living() == [(ada, ADA), (grace, GRACE)]


def test_back_and_forth_between_two_addresses(people: People) -> None:
    user_id = people.a_user(ADA)

    for email in (GRACE, ADA, GRACE, ADA, ADA, GRACE):
        people.done(change(user_id, email))
        assert people.living() == [(user_id, email)]

    assert people.types(user_id).count("user-email-changed.v1") == 5
    people.claims().settle(user_id)
    assert people.states(user_id) == [ClaimState.CONFIRMED]
    assert isinstance(people.done(create(ADA)), dict)


def test_without_new_ids_only_registrations_fail(people: People) -> None:
    user_id = people.a_user(ADA)

    def no_ids(count: int) -> list[int]:
        raise PartUnavailable("the ids worker", "it is not running")

    people.take_ids = no_ids  # type: ignore[method-assign]

    refused, renamed, changed, deleted = people.handle(
        create(GRACE), rename(user_id), change(user_id, ALAN), delete(user_id)
    )

    assert isinstance(refused, PartUnavailable)
    assert [isinstance(reply, dict) for reply in (renamed, changed, deleted)] == [True] * 3
    assert people.vault.holder(GRACE) is None


@pytest.mark.parametrize("asks_for", ["the damaged one's address", "a change of the damaged one"])
def test_one_damaged_stream_does_not_fail_its_neighbours(people: People, asks_for: str) -> None:
    damaged = people.a_user(ADA)
    _damage(people, damaged)
    bad = create(ADA) if asks_for == "the damaged one's address" else change(damaged, ALAN)

    first, refused, last = people.handle(create(GRACE), bad, create("last@example.com"))

    assert isinstance(first, dict)
    assert isinstance(refused, EsError)
    assert isinstance(last, dict)


def _damage(people: People, user_id: int) -> None:
    """Append what no version of the program has written."""
    version = people.store.streams(prefix=USER.stream_of(user_id), limit=1)[0][1]
    events = [EventData(uuid4(), "user-renamed.v1", b"not JSON", b"{}")]
    (result,) = people.store.append([Append(USER.stream_of(user_id), version, events)])
    assert isinstance(result, Appended)


def test_of_fifty_concurrent_registrations_of_one_address_one_wins(tmp_path: Path) -> None:
    with closing(People(tmp_path, store=SqliteStore(tmp_path / "events.db"))) as people:
        services = [people.service() for _ in range(5)]

        def register(number: int) -> Reply:
            (reply,) = services[number % 5].handle([create(ADA)])
            return reply

        with ThreadPoolExecutor(10) as pool:
            replies = list(pool.map(register, range(50)))

        assert [type(reply) for reply in replies].count(dict) == 1
        assert {type(reply) for reply in replies} <= {dict, EmailTaken, EmailReserved}
        assert len(people.living()) == 1


# --- repetition ------------------------------------------------------------------------------


@pytest.mark.parametrize("meanwhile", ["nothing", "renamed", "address changed", "deleted", "erased"])
def test_a_repeated_registration_is_answered_as_the_first_time(people: People, meanwhile: str) -> None:
    command = uuid4()
    first = people.done(create(ADA, command))
    user_id = int(first["user_id"])
    then = {
        "renamed": rename(user_id),
        "address changed": change(user_id, GRACE),
        "deleted": delete(user_id),
        "erased": erase(user_id),
    }
    if meanwhile in then:
        people.done(then[meanwhile])
        people.claims().settle(user_id)
    versions = people.store.streams(limit=100)

    assert people.done(create(ADA, command)) == first
    assert people.store.streams(limit=100) == versions
    assert people.vault.data_keys(range(1000, 1100)).keys() == {user_id}


@pytest.mark.parametrize("kind", ["rename", "change", "delete", "erase"])
def test_a_repeated_command_is_answered_as_the_first_time(people: People, kind: str) -> None:
    command, user_id = uuid4(), people.a_user(ADA)
    asked = {
        "rename": rename(user_id, "Two", command),
        "change": change(user_id, GRACE, command),
        "delete": delete(user_id, command),
        "erase": erase(user_id, command),
    }[kind]
    first = people.done(asked)
    head = people.store.head()

    assert people.done(asked) == first
    assert people.store.head() == head


def _after_moving_on(people: People) -> tuple[int, Request]:
    """A person who went from ADA to GRACE to ALAN, all claims settled; and the command that led to GRACE."""
    user_id = people.a_user(ADA)
    to_grace = change(user_id, GRACE, uuid4())
    people.done(to_grace)
    people.done(change(user_id, ALAN))
    people.claims().settle(user_id)
    assert people.states(user_id) == [ClaimState.CONFIRMED]
    return user_id, to_grace


def test_a_repeated_change_does_not_take_an_address_back_that_was_left(people: People) -> None:
    user_id, to_grace = _after_moving_on(people)

    reply = people.done(to_grace)

    assert reply["version"] == 1, "answered as the first time"
    assert people.living() == [(user_id, ALAN)]
    assert people.vault.holder(GRACE) is None
    assert people.states(user_id) == [ClaimState.CONFIRMED]


def test_a_repeated_change_of_an_erased_person_leaves_nothing_in_the_vault(people: People) -> None:
    user_id, to_grace = _after_moving_on(people)
    people.done(erase(user_id))
    people.vault.destroy_key(user_id, process="erasures", position=people.store.head())

    people.handle(to_grace)

    assert people.vault.claims_of(user_id, now_us=people.now_us) == []
    assert people.vault.holder(GRACE) is None


def test_a_repeated_change_with_another_address_claims_nothing(people: People) -> None:
    user_id, command = people.a_user(ADA), uuid4()
    people.done(change(user_id, GRACE, command))

    people.handle(change(user_id, ALAN, command))  # a command id names one command

    assert people.living() == [(user_id, GRACE)]
    assert people.vault.holder(ALAN) is None
    assert isinstance(people.done(create(ALAN)), dict)


def test_a_command_id_of_a_registration_is_refused_for_another_command(people: People) -> None:
    command = uuid4()
    user_id = int(people.done(create(ADA, command))["user_id"])
    other = people.a_user(GRACE)

    refused = CommandIdReused(str(command))
    assert (
        people.handle(
            rename(user_id, command=command),
            change(user_id, ALAN, command),
            change(other, ALAN, command),
            delete(other, command),
        )
        == [refused] * 4
    )
    assert people.vault.holder(ALAN) is None
    assert len(people.living()) == 2


def test_a_command_id_of_another_command_is_refused_for_a_registration(people: People) -> None:
    command = uuid4()
    user_id = people.a_user(ADA)
    people.done(rename(user_id, command=command))

    assert people.handle(create(GRACE, command)) == [CommandIdReused(str(command))]

    assert people.vault.holder(GRACE) is None, "the address is free at once"
    assert isinstance(people.done(create(GRACE)), dict)


# --- crashes of a command --------------------------------------------------------------------


def _registering(people: People) -> Request:
    return create(ADA, UUID(int=1))


def _changing(people: People) -> Request:
    return change(people.a_user(GRACE), ADA, UUID(int=1))


SITUATIONS: dict[str, Callable[[People], Request]] = {"register": _registering, "change": _changing}


def _crashes(folder: Path, situation: str) -> Iterator[tuple[str, People, Request]]:
    """A fresh system for every place where the command can end, after it has ended there."""

    def run(people: People, asked: Request) -> Callable[[Steps], object]:
        return lambda steps: people.service(
            store=steps.watched(people.store, "store"), vault=steps.watched(people.vault, "vault")
        ).handle([asked])

    with closing(People(folder / "counting")) as counted:
        places = list(every_crash(run(counted, SITUATIONS[situation](counted))))
    assert len(places) >= 8
    for at, after in places:
        with closing(People(folder / f"{at}{after}")) as people:
            asked = SITUATIONS[situation](people)
            yield crashed(run(people, asked), at, after=after), people, asked


def _is_stored(people: People, asked: Request) -> bool:
    return any(
        str(people.codec.metadata(recorded).command_id) == asked.body["command_id"]
        for recorded in people.store.read_all(0, 100)
    )


def _has_one_owner(people: People, email: str) -> int:
    (owner,) = [user_id for user_id, address in people.living() if address == email]
    assert people.vault.holder(email) == owner
    return owner


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_command_that_was_cut_off_anywhere_is_finished_by_repeating_it(
    tmp_path: Path, situation: str
) -> None:
    for where, people, asked in _crashes(tmp_path, situation):
        reply = people.done(asked)

        owner = _has_one_owner(people, ADA)
        assert int(reply["user_id"]) == owner, where
        people.claims().settle(owner)
        assert people.states(owner) == [ClaimState.CONFIRMED], where
        assert people.done(asked) == reply, where
        assert people.vault.expired_claims(now_us=people.now_us * 2, limit=10) == [], where


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_command_that_was_cut_off_anywhere_is_settled_by_the_janitor(
    tmp_path: Path, situation: str
) -> None:
    for where, people, asked in _crashes(tmp_path, situation):
        stored = _is_stored(people, asked)
        people.let_reservations_expire()

        people.claims().settle_expired()

        assert people.vault.expired_claims(now_us=people.now_us * 2, limit=10) == [], where
        assert (people.vault.holder(ADA) is not None) == stored, where
        rival, again = people.handle(create(ADA), asked)
        if stored:
            assert rival == EmailTaken(), where
            assert isinstance(again, dict), where
        else:
            assert isinstance(rival, dict), where
            assert again == EmailTaken(), where
        _has_one_owner(people, ADA)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_command_that_was_cut_off_and_given_up_may_run_anew(tmp_path: Path, situation: str) -> None:
    for where, people, asked in _crashes(tmp_path, situation):
        people.let_reservations_expire()
        people.claims().settle_expired()

        reply = people.done(asked)

        assert int(reply["user_id"]) == _has_one_owner(people, ADA), where
        alive = {
            id_
            for id_, key in people.vault.data_keys(range(1000, 1100)).items()
            if isinstance(key, LivingKey)
        }
        assert alive == {user_id for user_id, _ in people.living()}, f"{where}: no key without a person"


@pytest.mark.parametrize("situation", SITUATIONS)
def test_without_a_janitor_whoever_wants_the_address_gets_it_once_it_has_expired(
    tmp_path: Path, situation: str
) -> None:
    for where, people, asked in _crashes(tmp_path, situation):
        stored = _is_stored(people, asked)
        early = people.handle(create(ADA))[0]
        reserved = people.vault.holder(ADA) is not None
        people.let_reservations_expire()

        late = people.handle(create(ADA))[0]

        if stored:
            assert (early, late) == (EmailTaken(), EmailTaken()), where
        elif isinstance(early, dict):
            assert late == EmailTaken(), where
        else:
            assert reserved, where
            assert isinstance(late, dict), where
        _has_one_owner(people, ADA)


# --- a worker that is paused, not dead -------------------------------------------------------


@pytest.mark.parametrize("rival", [True, False])
@pytest.mark.parametrize("paused_at", ["vault.data_keys", "store.append", "vault.confirm"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_paused_worker_never_uses_an_address_that_was_given_up(
    people: People, situation: str, paused_at: str, rival: bool
) -> None:
    asked = SITUATIONS[situation](people)
    rivals: list[Reply] = []

    def meanwhile() -> None:
        people.let_reservations_expire()
        people.claims().settle_expired()
        if rival:
            rivals.extend(people.handle(create(ADA)))

    part, method = paused_at.split(".")
    parts = {"store": people.store, "vault": people.vault}
    parts[part] = Hooked(parts[part], method, meanwhile)  # type: ignore[assignment]

    (reply,) = people.service(**parts).handle([asked])  # type: ignore[arg-type]

    owner = _has_one_owner(people, ADA)
    if rival and paused_at != "vault.confirm":
        assert isinstance(rivals[0], dict)
        assert reply == EmailTaken()
        assert owner == int(rivals[0]["user_id"])
    else:
        assert rivals == ([EmailTaken()] if rival else [])
        assert isinstance(reply, dict)
        assert owner == int(reply["user_id"])
    people.let_reservations_expire()
    people.claims().settle_expired()
    people.claims().settle(owner)
    assert people.states(owner) == [ClaimState.CONFIRMED]
    assert _has_one_owner(people, ADA) == owner


@pytest.mark.parametrize(
    "paused_at",
    [
        "vault.reserve",
        "vault.data_keys",
        "store.read_stream",
        "store.append",
        "vault.confirm",
        "vault.release",
    ],
)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_command_that_two_workers_carry_out_at_once_has_its_effect_once_and_keeps_its_address(
    people: People, situation: str, paused_at: str
) -> None:
    asked = SITUATIONS[situation](people)
    other: list[Reply] = []
    part, method = paused_at.split(".")
    parts = {"store": people.store, "vault": people.vault}
    parts[part] = Hooked(parts[part], method, lambda: other.extend(people.handle(asked)))  # type: ignore[assignment]

    (reply,) = people.service(**parts).handle([asked])  # type: ignore[arg-type]

    assert isinstance(reply, dict)
    assert other in ([], [reply]), "the same answer, if it got that far"
    assert int(reply["user_id"]) == _has_one_owner(people, ADA)
    assert people.handle(create(ADA)) == [EmailTaken()]
    people.let_reservations_expire()
    people.claims().settle_expired()
    people.claims().settle(int(reply["user_id"]))
    assert people.states(int(reply["user_id"])) == [ClaimState.CONFIRMED]


def test_the_late_append_of_a_given_up_registration_conflicts(people: People) -> None:
    given_up: list[int] = []

    def meanwhile() -> None:
        given_up.append(people.vault.holder(ADA) or 0)
        people.let_reservations_expire()
        people.claims().settle_expired()

    (reply,) = people.service(store=Hooked(people.store, "append", meanwhile)).handle([create(ADA)])  # type: ignore[arg-type]

    assert people.types(given_up[0]) == [RegistrationAbandoned.type]
    assert people.user(given_up[0]).status is Status.UNKNOWN
    assert people.vault.data_keys(given_up) == {given_up[0]: DestroyedKey()}
    assert isinstance(reply, dict)
    assert int(reply["user_id"]) != given_up[0], "the command ran anew as another user"


def test_an_erasure_that_overtakes_a_sealed_change_keeps_it_out(people: People) -> None:
    user_id = people.a_user(ADA)

    def meanwhile() -> None:
        people.done(erase(user_id))
        people.vault.destroy_key(user_id, process="erasures", position=people.store.head())

    (reply,) = people.service(store=Hooked(people.store, "append", meanwhile)).handle(
        [change(user_id, GRACE)]
    )  # type: ignore[arg-type]

    assert reply == UserIsErased(user_id)
    assert people.types(user_id)[-1] == UserErased.type
    assert people.vault.claims_of(user_id, now_us=people.now_us) == []
    assert isinstance(people.done(create(GRACE)), dict)


def test_writers_against_an_erasure_leave_nothing_behind_the_fence(tmp_path: Path) -> None:
    with closing(People(tmp_path, store=SqliteStore(tmp_path / "events.db"))) as people:
        for round_ in range(5):
            user_id = people.a_user(f"user{round_}@example.com")

            def write(number: int, user_id: int = user_id) -> list[Reply]:
                if number == 4:
                    return people.service().handle([erase(user_id)])
                return people.service().handle(
                    [rename(user_id, f"Name {number}"), change(user_id, f"{user_id}-{number}@example.com")]
                )

            with ThreadPoolExecutor(8) as pool:
                replies = [reply for some in pool.map(write, range(8)) for reply in some]

            types = people.types(user_id)
            assert types[-1] == UserErased.type
            assert types.count(UserErased.type) == 1
            done = [reply["version"] for reply in replies if isinstance(reply, dict)]
            assert max(done) == len(types) - 1
            others = {type(reply) for reply in replies if not isinstance(reply, dict)}
            assert others <= {UserIsErased}


# --- outages ---------------------------------------------------------------------------------


class _Down:
    def __getattr__(self, name: str) -> Callable[..., Any]:
        def refuse(*_: object, **__: object) -> Any:
            raise PartUnavailable("a part", "it is down")

        return refuse


@pytest.mark.parametrize("part", ["store", "vault"])
def test_while_a_part_is_down_nothing_is_promised_and_repeating_is_safe(people: People, part: str) -> None:
    asked = create(ADA, uuid4())
    service = people.service(**{part: _Down()})  # type: ignore[arg-type]

    with pytest.raises(PartUnavailable) as refused:
        service.handle([asked])

    assert refused.value.kind is Kind.UNAVAILABLE
    assert people.living() == []
    first = people.done(asked)
    assert people.living() == [(int(first["user_id"]), ADA)]


def down() -> None:
    raise PartUnavailable("a part", "it is down")


def test_an_address_that_was_reserved_and_no_more_is_said_to_be_reserved(people: People) -> None:
    with pytest.raises(PartUnavailable):
        people.service(store=Hooked(people.store, "append", down)).handle([create(ADA)])  # type: ignore[arg-type]

    # "Taken by another user" would send somebody looking for a user that there isn't.
    assert people.handle(create(ADA)) == [EmailReserved()]

    people.let_reservations_expire()
    people.done(create(ADA))
    assert people.handle(create(ADA)) == [EmailTaken()]


def test_a_confirmation_that_fails_is_made_up_by_repeating(people: People) -> None:
    asked = create(ADA, uuid4())
    with pytest.raises(PartUnavailable):
        people.service(vault=Hooked(people.vault, "confirm", down)).handle([asked])  # type: ignore[arg-type]
    assert len(people.living()) == 1

    reply = people.done(asked)

    assert people.states(int(reply["user_id"])) == [ClaimState.CONFIRMED]
