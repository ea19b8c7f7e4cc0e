"""Ids that a worker draws for what commands create: one command id, one instance, wherever a worker crashed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters.codec import JsonCodec
from adapters.crypto.sealing import Keyring
from adapters.memory.event_store import MemoryStore
from domain.kernel.errors import (
    AnsweredError,
    CommandCancelled,
    CommandIdReused,
    Damaged,
    InvalidSetting,
    PartUnavailable,
    PersonErased,
    PersonNotFound,
)
from domain.kernel.feature import Role
from domain.kernel.messages import Reply, Request
from domain.kernel.ports.event_store import Append, AppendResult
from domain.kernel.ports.vault import DataKey, DestroyedKey, Reason
from domain.kernel.system import CommandRemembered, IdAssigned, assignment_stream
from tests.support.builders import a_key, streams_of
from tests.support.leases import LEASE
from tests.support.parts import replaced
from workers.runtime.commands import CommandService, open_service

ADA = 77
CODEC = JsonCodec([*LEASE.events, CommandRemembered, IdAssigned])


class Crash(Exception):
    pass


class Leases:
    """The service of leases over a store in memory. `crash_at` ends it before or after one of its appends."""

    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.ids = itertools.count(1024, 1024)
        self.keys: dict[int, DataKey] = {ADA: a_key(1)}
        self.appends: list[list[str]] = []
        self.before: Callable[[int], object] = lambda _: None
        self.after: Callable[[int], object] = lambda _: None

    def handle(
        self, *requests: Request, take_ids: Callable[[int], Sequence[int]] | None = None
    ) -> list[Reply]:
        service = CommandService(
            [LEASE],
            store=replaced(self.memory, append=self._append),
            codec=CODEC,
            keyring=lambda subjects: Keyring(
                {s: self.keys[s] for s in subjects if s in self.keys}, self._fetch
            ),
            pause=lambda _: None,
            take_ids=take_ids or self.take_ids,
        )
        return service.handle(requests)

    def _fetch(self, subjects: Sequence[int]) -> dict[int, DataKey]:
        return {subject: self.keys[subject] for subject in subjects if subject in self.keys}

    def take_ids(self, count: int) -> list[int]:
        return [next(self.ids) for _ in range(count)]

    def _append(self, batch: Sequence[Append]) -> list[AppendResult]:
        number = len(self.appends)
        self.appends.append([append.stream for append in batch])
        self.before(number)
        results = self.memory.append(batch)
        self.after(number)
        return results


@pytest.fixture
def leases() -> Leases:
    return Leases()


def sign(command_id: UUID | None = None, name: str = "Ada", person: int = ADA, **more: Any) -> Request:
    given = {"tenant_id": str(person), "tenant": name, "flat": "attic"}
    return Request(
        "leases.sign", {"command_id": str(command_id or uuid4()), "actor": "uid:1000", "input": given, **more}
    )


def pay(lease_id: object) -> Request:
    given = {"lease_id": str(lease_id), "amount": "5"}
    return Request("leases.pay", {"command_id": str(uuid4()), "actor": "uid:1000", "input": given})


def ids_of(replies: Sequence[Reply]) -> list[object]:
    return [reply["lease_id"] if isinstance(reply, dict) else type(reply) for reply in replies]


def test_a_batch_draws_its_ids_in_one_append_and_creates_in_another(leases: Leases) -> None:
    one, two = uuid4(), uuid4()

    replies = leases.handle(sign(one), sign(two))

    assert replies[0] == {"command_id": str(one), "lease_id": "1024", "version": 0, "position": 3}
    assert ids_of(replies) == ["1024", "2048"]
    assert leases.appends == [
        [assignment_stream("lease", one), assignment_stream("lease", two)],
        ["lease-1024", "lease-2048"],
    ]
    (assigned,) = leases.memory.read_stream(f"created-lease-{one}")
    assert (assigned.type, assigned.data) == ("id-assigned.v1", b'{"id":1024}')
    assert CODEC.metadata(assigned).command == "sign-lease"


def test_what_needs_no_new_id_appends_once(leases: Leases) -> None:
    (signed,) = leases.handle(sign())
    assert isinstance(signed, dict)
    leases.appends.clear()

    leases.handle(pay(signed["lease_id"]))

    assert leases.appends == [["lease-1024"]]


def test_a_repeat_gives_the_first_answer_for_ever(leases: Leases) -> None:
    asked = sign()

    replies = [
        *leases.handle(asked),
        *leases.handle(pay(1024)),
        *leases.handle(asked),
        *leases.handle(asked, asked),
    ]

    first = replies[0]
    assert [replies[2], *replies[3:]] == [first, first, first]
    assert [stream for stream, _ in streams_of(leases.memory)].count("lease-1024") == 1
    assert len(streams_of(leases.memory)) == 2, "one instance and its assignment"


def test_a_repeat_in_the_same_batch_is_the_same_instance(leases: Leases) -> None:
    asked = sign()

    assert ids_of(leases.handle(asked, sign(), asked)) == ["1024", "2048", "1024"]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_at_any_append_leaves_one_instance(leases: Leases, number: int, moment: str) -> None:
    def crash(at: int) -> None:
        if at == number:
            raise Crash

    asked = sign()
    setattr(leases, moment, crash)
    with pytest.raises(Crash):
        leases.handle(asked)
    setattr(leases, moment, lambda _: None)

    (again,) = leases.handle(asked)

    assert leases.handle(asked) == [again]
    instances = [stream for stream, _ in streams_of(leases.memory) if stream.startswith("lease-")]
    assert isinstance(again, dict)
    assert instances == [f"lease-{again['lease_id']}"]


def test_a_rival_that_assigns_first_decides_the_id(leases: Leases) -> None:
    asked = sign()
    rival = Leases()
    rivals = iter([lambda: rival.handle(asked)])
    rival.memory, rival.ids = leases.memory, itertools.count(9216, 1024)
    leases.before = lambda _: next(rivals, lambda: None)()

    assert ids_of(leases.handle(asked)) == ["9216"]
    assert len(streams_of(leases.memory)) == 2


def test_another_command_or_input_with_the_id_is_refused(leases: Leases) -> None:
    command_id = uuid4()
    leases.handle(sign(command_id))

    assert ids_of(leases.handle(sign(command_id, "Other"))) == [CommandIdReused]


# --- remembered and cancelled ----------------------------------------------------------------


def test_a_remembered_refusal_stays(leases: Leases) -> None:
    asked = sign(person=555, remember=True)
    assert ids_of(leases.handle(asked)) == [PersonNotFound]
    leases.keys[555] = a_key(5)

    (again,) = leases.handle(asked)

    assert isinstance(again, AnsweredError)
    assert again.code == PersonNotFound.code


def test_a_refusal_that_is_not_remembered_is_decided_again(leases: Leases) -> None:
    asked = sign(person=555)
    leases.handle(asked)
    leases.keys[555] = a_key(5)

    assert ids_of(leases.handle(asked)) == ["1024"], "with the first id"


def test_a_cancelled_creation_never_takes_effect(leases: Leases) -> None:
    command_id = uuid4()
    assert ids_of(leases.handle(sign(command_id, cancel=True))) == [CommandCancelled]

    (late,) = leases.handle(sign(command_id))

    assert isinstance(late, AnsweredError)
    assert late.code == CommandCancelled.code


def test_a_cancellation_that_is_late_gets_the_first_answer(leases: Leases) -> None:
    command_id = uuid4()
    first = leases.handle(sign(command_id))

    assert leases.handle(sign(command_id, cancel=True)) == first


def test_an_erased_tenant_gets_no_lease(leases: Leases) -> None:
    leases.keys[ADA] = DestroyedKey(Reason.ERASURE)

    assert leases.handle(sign()) == [PersonErased(ADA)]


# --- outages and damage ----------------------------------------------------------------------


def test_without_ids_only_new_commands_wait(leases: Leases) -> None:
    outage = PartUnavailable("ids", "it is stopped")

    def fails(_: int) -> list[int]:
        raise outage

    known = sign()
    (first,) = leases.handle(known)

    replies = leases.handle(known, sign(), pay(1024), take_ids=fails)

    assert replies[:2] == [first, outage]
    assert isinstance(replies[2], dict)


def test_an_assignment_that_cannot_be_read_is_damage_of_its_command_only(leases: Leases) -> None:
    command_id = uuid4()
    stream = assignment_stream("lease", command_id)
    other = CODEC.encode(
        CommandRemembered("", "", "", ""),
        event_id=uuid4(),
        subject=None,
        metadata=CODEC.metadata(_first(leases)),
        sealer=None,
    )
    leases.memory.append([Append(stream, -1, [other])])

    assert ids_of(leases.handle(sign(command_id), pay(1024))) == [Damaged, "1024"]


def _first(leases: Leases) -> Any:
    command_id = uuid4()
    leases.handle(sign(command_id))
    return next(iter(leases.memory.read_stream(assignment_stream("lease", command_id))))


# --- opening ---------------------------------------------------------------------------------


class StandInWorker:
    """A worker of the leases, and which of its parts were opened."""

    role = "leases"
    feature = None
    codec = CODEC

    def __init__(self, *needs: str) -> None:
        self.registry: Any = self
        self.opened: list[str] = []
        self._role = Role("leases", needs=needs)

    def __getattr__(self, name: str) -> Any:
        def opened(*_: object) -> object:
            self.opened.append(name)
            return MemoryStore()  # in the place of any part: none is used

        return opened

    def aggregates_of(self, _: object) -> Sequence[Any]:
        return (LEASE,)


def test_a_role_that_draws_ids_has_to_need_them() -> None:
    worker: Any = StandInWorker("ids")
    worker.registry = replaced(worker, role=lambda _: worker._role)
    open_service(worker)
    assert worker.opened == ["store", "vault", "id_source"]

    other: Any = StandInWorker()
    other.registry = replaced(other, role=lambda _: other._role)
    with pytest.raises(InvalidSetting, match="SignLease needs drawn ids"):
        open_service(other)
