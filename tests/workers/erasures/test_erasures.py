"""The process that carries an erasure through: resumed after any crash, never undone by an old vault."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters import wiring
from adapters.log import Log, open_log
from domain.kernel.errors import EsError, InvalidInput, PartUnavailable, UnknownRequest
from domain.kernel.events import EventData, Position
from domain.kernel.messages import Request
from domain.kernel.personal import ERASED
from domain.kernel.ports.event_store import Append, CaughtUp, EventStore
from domain.kernel.ports.vault import ClaimState, DestroyedKey, LivingKey, Vault
from domain.users.account import USER, ErasureCompleted, Status, UserErased
from domain.users.errors import UserNotFound
from tests.workers.users.test_users_service import (
    ADA,
    ALAN,
    GRACE,
    Hooked,
    People,
    Steps,
    change,
    crashed,
    create,
    delete,
    erase,
    every_crash,
    rename,
)
from workers.erasures.process import COMPLETING, DESTROYING, ErasureProcess, PurgeDeadLetters
from workers.erasures.service import ErasuresService


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    with closing(People(tmp_path / "people")) as opened:
        yield opened


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return open_log(f"erasures-{tmp_path.name}", tmp_path / "log" / "erasures.log")


@pytest.fixture
def log_text(tmp_path: Path) -> Callable[[], str]:
    return lambda: (tmp_path / "log" / "erasures.log").read_text()


class Clock:
    """Every look at it is ten seconds later, so that whatever is done now and then is done at once."""

    def __init__(self) -> None:
        self._now_s = itertools.count(100.0, 10.0)

    def __call__(self) -> float:
        return next(self._now_s)


def a_process(
    people: People,
    log: Log,
    *,
    store: EventStore | None = None,
    vault: Vault | None = None,
    purge_dead_letters: PurgeDeadLetters | None = None,
) -> ErasureProcess:
    return ErasureProcess(
        store=store or people.store,
        codec=people.codec,
        vault=vault or people.vault,
        claims=people.claims(store=store, vault=vault),
        handler=people.handler(store=store, vault=vault),
        keyring=wiring.keyring_of(vault or people.vault),
        log=log,
        purge_dead_letters=purge_dead_letters,
        monotonic_s=Clock(),
    )


class Until:
    """A store whose followers end when they have caught up."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def follow(self, after: Position, *, stopped: Callable[[], bool], **more: Any) -> Iterator[Any]:
        for item in self._store.follow(after, stopped=stopped, **more):
            yield item
            if isinstance(item, CaughtUp):
                return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def run(people: People, log: Log, *, store: Any = None, **more: Any) -> None:
    """Run the process until it has nothing to do."""
    ended = Until(store or people.store)
    a_process(people, log, store=ended, **more).run(lambda: False)  # type: ignore[arg-type]


def is_erased(people: People, user_id: int) -> bool:
    return people.vault.data_keys([user_id]) == {user_id: DestroyedKey()}


def completions(people: People, user_id: int) -> int:
    return people.types(user_id).count(ErasureCompleted.type)


# --- a store that was restored ---------------------------------------------------------------


def test_an_erasure_after_older_events_were_restored_is_carried_out(people: People, log: Log) -> None:
    user_id = people.a_user(ADA)
    run(people, log)
    lost = people.store.head() + 5000  # the vault has seen so much that isn't there any more
    people.vault.save_checkpoint(COMPLETING, lost)

    run(people, log)
    people.done(erase(user_id))
    run(people, log)

    assert is_erased(people, user_id)
    assert completions(people, user_id) == 1
    assert people.vault.checkpoint(COMPLETING) < lost


# --- erasing ---------------------------------------------------------------------------------


def test_an_erasure_destroys_the_key_and_the_claims_and_is_completed(people: People, log: Log) -> None:
    user_id, other = people.a_user(ADA), people.a_user(GRACE)
    people.done(change(user_id, ALAN))
    people.done(erase(user_id))

    run(people, log)

    assert is_erased(people, user_id)
    assert people.types(user_id)[-2:] == [UserErased.type, ErasureCompleted.type]
    assert [people.vault.holder(email) for email in (ADA, GRACE, ALAN)] == [None, other, None]
    assert isinstance(people.vault.data_keys([other])[other], LivingKey)
    user = people.user(user_id)
    assert (user.status, user.email, user.name, user.erasure_completed) == (
        Status.ERASED,
        ERASED,
        ERASED,
        True,
    )


def test_the_completion_tells_what_caused_it(people: People, log: Log) -> None:
    user_id, command = people.a_user(ADA), uuid4()
    people.done(erase(user_id, command))

    run(people, log)

    erased, completed = list(people.store.read_stream(USER.stream_of(user_id)))[-2:]
    metadata = people.codec.metadata(completed)
    assert metadata.actor == "process:erasures"
    assert (metadata.causation_id, metadata.correlation_id) == (erased.event_id, command)


def test_the_key_is_destroyed_before_the_erasure_is_called_complete(people: People, log: Log) -> None:
    user_id = people.a_user(ADA)
    people.done(erase(user_id))
    seen: list[bool] = []
    store = Hooked(people.store, "append", lambda: seen.append(is_erased(people, user_id)))

    run(people, log, store=store)

    assert seen == [True]


def test_what_is_erased_can_be_registered_again_as_somebody_else(people: People, log: Log) -> None:
    user_id = people.a_user(ADA)
    people.done(erase(user_id))
    run(people, log)

    assert int(people.done(create(ADA))["user_id"]) != user_id


def test_running_again_changes_nothing(people: People, log: Log) -> None:
    user_id = people.a_user(ADA)
    people.done(erase(user_id))
    run(people, log)
    head = people.store.head()

    run(people, log)
    for recorded in list(people.store.read_all(0, 100)):
        a_process(people, log).react(recorded)

    assert people.store.head() == head
    assert completions(people, user_id) == 1


def test_a_second_erasure_of_a_person_changes_nothing(people: People, log: Log) -> None:
    user_id = people.a_user(ADA)
    people.done(erase(user_id))
    people.done(erase(user_id))
    run(people, log)
    head = people.store.head()

    people.done(erase(user_id))
    run(people, log)

    assert people.store.head() == head


def test_people_who_are_not_erased_are_left_alone(people: People, log: Log) -> None:
    user_id = people.a_user(ADA)
    people.done(rename(user_id))
    head = people.store.head()

    run(people, log)

    assert people.living() == [(user_id, ADA)]
    assert people.store.head() == head
    assert people.states(user_id) == [ClaimState.CONFIRMED]


def test_claims_follow_changed_addresses_and_deletions(people: People, log: Log) -> None:
    moved, deleted = people.a_user(ADA), people.a_user(GRACE)
    people.done(change(moved, ALAN))
    people.done(delete(deleted))

    run(people, log)

    assert [people.vault.holder(email) for email in (ADA, GRACE, ALAN)] == [None, None, moved]
    assert isinstance(people.vault.data_keys([deleted])[deleted], LivingKey), "its data is kept"


def test_the_process_is_the_janitor_of_expired_reservations(people: People, log: Log) -> None:
    steps = Steps(3, after=False)
    with pytest.raises(BaseException, match=r"store|vault"):
        people.service(
            store=steps.watched(people.store, "store"), vault=steps.watched(people.vault, "vault")
        ).handle([create(ADA), create(GRACE)])
    people.let_reservations_expire()

    run(people, log)

    assert people.vault.expired_claims(now_us=people.now_us * 2, limit=10) == []


def test_nothing_personal_is_logged(people: People, log: Log, log_text: Callable[[], str]) -> None:
    user_id = people.a_user("canary-5f1d@example.com")
    people.done(change(user_id, "canary-77aa@example.com"))
    people.done(erase(user_id))

    run(people, log)

    assert '"action": "erased"' in log_text()
    assert "canary" not in log_text()


# --- crashes ---------------------------------------------------------------------------------


def _prepared(folder: Path) -> tuple[People, int, int]:
    people = People(folder)
    user_id, other = people.a_user(ADA), people.a_user("other@example.com")
    people.done(change(user_id, GRACE))
    people.done(change(user_id, ALAN))
    people.done(erase(user_id))
    return people, user_id, other


def _final(people: People, user_id: int, other: int) -> tuple[object, ...]:
    return (
        people.vault.data_keys([user_id]),
        [people.vault.holder(email) for email in (ADA, GRACE, ALAN)],
        [type_ for type_ in people.types(user_id) if type_ != "email-change-abandoned.v1"],
        people.living(),
        people.states(other),
    )


def test_a_process_that_ends_anywhere_is_resumed_to_the_same_state(tmp_path: Path, log: Log) -> None:
    def running(people: People) -> Callable[[Steps], object]:
        return lambda steps: run(
            people,
            log,
            store=steps.watched(people.store, "store"),
            vault=steps.watched(people.vault, "vault"),
        )

    people, user_id, other = _prepared(tmp_path / "whole")
    with closing(people):
        places = list(every_crash(running(people)))
        expected = _final(people, user_id, other)
    assert completions(people, user_id) == 1
    assert len(places) > 20

    for at, after in places:
        people, user_id, other = _prepared(tmp_path / f"{at}{after}")
        with closing(people):
            where = crashed(running(people), at, after=after)
            run(people, log)
            assert _final(people, user_id, other) == expected, where
            assert completions(people, user_id) == 1, where
            assert people.vault.checkpoint(DESTROYING) >= 5, where


def test_two_processes_at_once_complete_an_erasure_once(people: People, log: Log) -> None:
    user_id = people.a_user(ADA)
    people.done(erase(user_id))
    store = Hooked(people.store, "append", lambda: run(people, log))

    run(people, log, store=store)

    assert completions(people, user_id) == 1
    assert is_erased(people, user_id)


@pytest.mark.parametrize("part", ["store", "vault"])
def test_an_outage_is_raised_and_nothing_is_passed_over(people: People, log: Log, part: str) -> None:
    user_id = people.a_user(ADA)
    people.done(erase(user_id))

    def down() -> None:
        raise PartUnavailable(part, "it is down")

    parts = {
        "store": Hooked(people.store, "append", down),
        "vault": Hooked(people.vault, "destroy_key", down),
    }
    with pytest.raises(PartUnavailable):
        run(people, log, **{part: parts[part]})
    assert people.vault.checkpoint(COMPLETING) < people.store.head()
    assert completions(people, user_id) == 0

    run(people, log)

    assert completions(people, user_id) == 1
    assert is_erased(people, user_id)


@pytest.mark.parametrize("what", ["an erased person", "a person who moved"])
def test_a_damaged_stream_does_not_hold_up_the_erasure_of_others(people: People, log: Log, what: str) -> None:
    damaged, waiting = people.a_user(ADA), people.a_user(GRACE)
    if what == "an erased person":
        people.done(erase(damaged))
    else:
        people.done(change(damaged, ALAN))
    _damage(people, damaged)
    people.done(erase(waiting))

    # It may complain, but it may not stand still: whoever asked for an erasure has a right to it.
    for _ in range(3):
        try:
            run(people, log)
        except EsError:
            continue

    assert is_erased(people, waiting)
    assert completions(people, waiting) == 1


def _damage(people: People, user_id: int) -> None:
    version = len(list(people.store.read_stream(USER.stream_of(user_id)))) - 1
    events = [EventData(uuid4(), "user-renamed.v1", b"not JSON", b"{}")]
    people.store.append([Append(USER.stream_of(user_id), version, events)])


# --- an old vault ----------------------------------------------------------------------------


def _restored(people: People, backup: Path) -> None:
    people.vault.close()
    for leftover in people.vault_path.parent.glob("vault.db-*"):
        leftover.unlink()
    shutil.copy(backup, people.vault_path)
    people.vault = people.open_vault()


def test_keys_that_an_old_vault_brings_back_are_destroyed_again(
    people: People, log: Log, tmp_path: Path
) -> None:
    first, second, kept = people.a_user(ADA), people.a_user(GRACE), people.a_user(ALAN)
    people.done(erase(first))
    run(people, log)
    people.vault.close()
    backup = tmp_path / "backup.db"
    shutil.copy(people.vault_path, backup)
    people.vault = people.open_vault()
    people.done(erase(second))
    run(people, log)
    head = people.store.head()

    _restored(people, backup)
    assert isinstance(people.vault.data_keys([second])[second], LivingKey), "the old key is back"
    assert people.vault.checkpoint(COMPLETING) < head
    run(people, log)

    assert is_erased(people, first)
    assert is_erased(people, second)
    assert people.vault.holder(GRACE) is None
    assert isinstance(people.vault.data_keys([kept])[kept], LivingKey)
    assert people.store.head() == head, "and nothing is completed a second time"


def test_a_vault_from_before_everything_is_caught_up_with(people: People, log: Log, tmp_path: Path) -> None:
    ids = [people.a_user(f"user{number}@example.com") for number in range(5)]
    people.vault.close()
    backup = tmp_path / "backup.db"
    shutil.copy(people.vault_path, backup)
    people.vault = people.open_vault()
    for user_id in ids[:4]:
        people.done(erase(user_id))
    run(people, log)

    _restored(people, backup)
    run(people, log)

    assert [is_erased(people, user_id) for user_id in ids] == [True] * 4 + [False]


def test_the_checkpoint_is_not_ahead_of_what_was_destroyed(people: People, log: Log) -> None:
    # For every place where the process can end: whatever the checkpoint passed is destroyed.
    for number in range(3):
        people.done(erase(people.a_user(f"user{number}@example.com")))
    erasures = [r for r in people.store.read_all(0, 100) if r.type == UserErased.type]
    checked = 0

    class Checking:
        def save_checkpoint(self, process: str, position: Position) -> None:
            nonlocal checked
            checked += 1
            for recorded in erasures:
                if recorded.position <= position:
                    assert is_erased(people, int(recorded.stream.removeprefix("user-")))
            people.vault.save_checkpoint(process, position)

        def __getattr__(self, name: str) -> Any:
            return getattr(people.vault, name)

    run(people, log, vault=Checking())

    assert checked >= 1
    assert people.vault.checkpoint(COMPLETING) >= erasures[-1].position
    assert people.vault.checkpoint(DESTROYING) == erasures[-1].position


def test_the_process_starts_from_its_checkpoint(people: People, log: Log) -> None:
    people.done(erase(people.a_user(ADA)))
    run(people, log)
    checkpoint = people.vault.checkpoint(COMPLETING)
    started_from: list[Position] = []

    class Watched(Until):
        def follow(self, after: Position, **more: Any) -> Iterator[Any]:  # type: ignore[override]
            started_from.append(after)
            return super().follow(after, **more)

    a_process(people, log, store=Watched(people.store)).run(lambda: False)  # type: ignore[arg-type]

    assert started_from == [checkpoint]
    assert checkpoint >= 2


# --- how far it is ---------------------------------------------------------------------------


def status(people: People, **body: object) -> Any:
    (reply,) = a_service(people).handle([Request("erasures.status", dict(body))])
    return reply


def a_service(people: People, process: ErasureProcess | None = None) -> ErasuresService:
    process = process or a_process(people, open_log("unused", None))
    return ErasuresService(store=people.store, codec=people.codec, process=process)


def test_how_far_an_erasure_is_can_be_asked(people: People, log: Log) -> None:
    user_id = people.a_user(ADA)
    assert status(people, user_id=str(user_id)) == {
        "user_id": str(user_id),
        "erasure": "none",
        "position": 1,
        "waits_for": None,
    }
    people.done(erase(user_id))
    assert status(people, user_id=str(user_id))["erasure"] == "under-way"

    run(people, log)

    assert status(people, user_id=str(user_id)) == {
        "user_id": str(user_id),
        "erasure": "completed",
        "position": 3,
        "waits_for": None,
    }


def test_an_erasure_that_waits_tells_what_for(people: People, log: Log) -> None:
    user_id = people.a_user(ADA)
    people.done(erase(user_id))
    away = PartUnavailable("vault", "PostgreSQL at db: connection refused")

    def down() -> None:
        raise away

    vault = Hooked(people.vault, "destroy_key", down)
    process = a_process(people, log, store=Until(people.store), vault=vault)  # type: ignore[arg-type]
    service = a_service(people, process)
    question = Request("erasures.status", {"user_id": str(user_id)})

    with pytest.raises(PartUnavailable):
        process.run(lambda: False)
    (waiting,) = service.handle([question])
    process.run(lambda: False)
    (done,) = service.handle([question])

    assert isinstance(waiting, dict)
    assert (waiting["erasure"], waiting["waits_for"]) == ("under-way", away.to_wire())
    assert isinstance(done, dict)
    assert (done["erasure"], done["waits_for"]) == ("completed", None)


# --- dead letters ----------------------------------------------------------------------------


def test_requests_of_the_person_leave_the_dead_letters_before_the_key_is_destroyed(
    people: People, log: Log
) -> None:
    user_id, other = people.a_user(ADA), people.a_user(GRACE)
    people.done(change(user_id, ALAN))
    people.done(erase(user_id))
    commands = [
        people.codec.metadata(e).command_id for e in people.store.read_stream(USER.stream_of(user_id))
    ]
    theirs = [
        {"kind": "users.create", "body": {"input": {"email": " ALAN@example.com ", "name": "A"}}},
        {"kind": "users.create", "body": {"command_id": str(commands[0]), "input": None}},
        {"kind": "users.create", "body": {"input": {"email": ADA}}},
        {"unreadable": f"something about {user_id}"},
    ]
    not_theirs = [
        {"kind": "users.create", "body": {"input": {"email": GRACE, "name": "G"}}},
        {"kind": "users.create", "body": {"command_id": [], "input": {"email": "no address"}}},
        {"kind": "users.create", "body": {"command_id": str(uuid4()), "input": None}},
        {"kind": "users.create"},
        {"unreadable": f"something about {other}"},
    ]
    purged: list[tuple[int, list[bool]]] = []

    def purge(subject: int, is_theirs: Callable[[dict[str, Any]], bool]) -> int:
        assert not is_erased(people, user_id), "the addresses can be read only with it"
        purged.append((subject, [is_theirs(request) for request in (*theirs, *not_theirs)]))
        return 1

    run(people, log, purge_dead_letters=purge)

    assert purged == [(user_id, [True] * len(theirs) + [False] * len(not_theirs))]
    assert is_erased(people, user_id)


def test_an_erasure_waits_for_a_broker_that_is_away(people: People, log: Log) -> None:
    user_id = people.a_user(ADA)
    people.done(erase(user_id))

    def away(*_: object) -> int:
        raise PartUnavailable("RabbitMQ", "connection refused")

    with pytest.raises(PartUnavailable):
        run(people, log, purge_dead_letters=away)
    assert not is_erased(people, user_id)

    run(people, log, purge_dead_letters=lambda *_: 0)

    assert is_erased(people, user_id)


def test_how_far_the_process_is_can_be_asked(people: People, log: Log) -> None:
    people.a_user(ADA)
    process = a_process(people, log, store=Until(people.store))  # type: ignore[arg-type]
    service = a_service(people, process)
    head = people.store.head()

    (before,) = service.handle([Request("erasures.progress", {})])
    process.run(lambda: False)
    (after,) = service.handle([Request("erasures.progress", {})])

    assert before == {"position": 0, "head": head, "lag": head}
    assert after == {"position": head, "head": head, "lag": 0}


def test_of_nobody_nothing_can_be_asked(people: People) -> None:
    assert status(people, user_id="5") == UserNotFound(5)
    assert isinstance(status(people, user_id="x"), InvalidInput)
    assert isinstance(status(people), InvalidInput)
    service = a_service(people)
    assert service.handle([Request("erasures.undo", {})]) == [UnknownRequest("erasures.undo")]


def test_after_an_erasure_no_key_opens_what_is_stored(people: People, log: Log) -> None:
    user_id = people.a_user(ADA)
    people.done(erase(user_id))
    run(people, log)
    keyring = wiring.keyring_of(people.vault)([user_id])

    opened = [
        people.codec.decode(recorded, subject=user_id, opener=keyring)
        for recorded in people.store.read_stream(USER.stream_of(user_id))
    ]

    assert (opened[0].email, opened[0].name) == (ERASED, ERASED)  # type: ignore[attr-defined]
