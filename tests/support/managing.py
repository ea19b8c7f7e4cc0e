"""Purses, transfers and their process manager in one process: each part can be watched, killed, lost or restored.

Promise: `check` proves what must hold at every moment, `check_at_the_end` what must hold once everything is quiet.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from adapters import wiring
from adapters.log import Log
from adapters.memory.event_store import MemoryStore
from adapters.sqlite.worklist import SqliteWorklist
from domain.features import Registry, registry
from domain.kernel.errors import AnsweredError, EsError
from domain.kernel.events import Recorded
from domain.kernel.messages import Body, Question, Request
from domain.kernel.ports.worklist import OpenInstance
from domain.kernel.process import Process
from domain.kernel.process_instance import Instance
from tests.support.erasures import until_caught_up
from tests.support.interleavings import Actor
from tests.support.parts import replaced
from tests.support.transfers import (
    MOVING,
    PURSE,
    TRANSFER,
    Purse,
    PurseFilled,
    TransferFinished,
    evolve_purse,
)
from workers.processes.instances import Instances
from workers.processes.manager import Manager
from workers.processes.noting import Noting
from workers.processes.sending import Sender
from workers.processes.service import ProcessesService
from workers.runtime.commands import CommandService

FEATURE = "tests.support.transfers"
START_US = 1_800_000_000_000_000


class ServiceCaller:
    """A caller whose requests are handled at once, in one batch."""

    def __init__(self, handle: Callable[[Sequence[Request]], list[Any]]) -> None:
        self._handle = handle

    def pipeline(
        self, role: str, requests: Iterable[Question], *, timeout_s: float = 10.0
    ) -> Iterator[Body | EsError]:
        assert role == "bank"
        asked = [Request(kind, dict(body)) for kind, body in requests]  # type: ignore[misc]
        return iter([_carried(reply) for reply in self._handle(asked)])

    def close(self) -> None:
        pass


def _carried(reply: Any) -> Any:
    """A reply as a transport carries it."""
    return AnsweredError.from_wire(reply.to_wire()) if isinstance(reply, EsError) else reply


class Bank:
    """`process` may be exchanged: an upgrade. `us` is the time, which only the test moves."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.us = START_US
        self.process: Process[Any] = MOVING
        self.registry: Registry = registry((FEATURE,))
        self.codec = wiring.open_codec((FEATURE,))
        self.store: Any = MemoryStore(now_us=self.now_us)
        self._folder = folder
        self._log = log
        self._lists = 0
        self.worklist = self._open_list()
        self.requested: dict[int, tuple[int, int, int]] = {}
        self.money = 0

    def now_us(self) -> int:
        return self.us

    # --- parts ---------------------------------------------------------------------------------

    def _open_list(self) -> SqliteWorklist:
        worklist = SqliteWorklist(self._list_file)
        worklist._database._synchronous = "off"
        worklist._database.connection.pragma("synchronous", "off")
        return worklist

    @property
    def _list_file(self) -> Path:
        return self._folder / f"read{self._lists}.db"

    def service(self, store: Any = None) -> CommandService:
        return CommandService(
            self.registry.aggregates_of(self.registry.feature_of("bank")),
            store=store or self.store,
            codec=self.codec,
            keyring=lambda _: wiring.erased_keyring(),
            pause=lambda _: None,
        )

    def caller(self, store: Any = None) -> Any:
        return ServiceCaller(self.service(store).handle)

    def manager(self, *, stopped: Callable[[], bool] = lambda: False, **parts: Any) -> Manager:
        """A manager over these parts, or its own: `store`, `worklist` and `caller`."""
        store = parts.get("store", self.store)
        worklist = parts.get("worklist", self.worklist)
        instances = Instances(self.process, store=store, codec=self.codec, pause=lambda _: None)
        own = {"instances": instances, "store": store, "worklist": worklist, "now_us": self.now_us}
        return Manager(
            self.process,
            types=self.process.types,
            noting=Noting(self.process, codec=self.codec, **own),
            sender=Sender(
                "process:moving",
                caller=parts.get("caller") or self.caller(),
                registry=self.registry,
                monotonic_s=lambda: self.us / 1e6,
            ),
            owner=parts.get("owner", "test"),
            log=self._log,
            monotonic_s=lambda: self.us / 1e6,
            pause=lambda _: None,
            jitter=lambda: 1.0,
            **own,
        )

    def run(self, **parts: Any) -> None:
        """Let a manager work until it has caught up and nothing is due."""
        ended = [False]
        store = parts.pop("store", self.store)

        def follow(*args: Any, **more: Any) -> Iterator[Any]:
            yield from until_caught_up(store).follow(*args, **more)
            ended[0] = True

        with_end = replaced(store, follow=follow)
        self.manager(store=with_end, **parts).run(lambda: ended[0])

    def managing(self, **parts: Any) -> ProcessesService:
        """The queries of the role."""
        instances = Instances(self.process, store=self.store, codec=self.codec, pause=lambda _: None)
        return ProcessesService(
            [self.manager(**parts)],
            store=self.store,
            codec=self.codec,
            worklist=self.worklist,
            instances={self.process.name: instances},
            now_us=self.now_us,
        )

    def close(self) -> None:
        self.worklist.close()

    # --- what users do -------------------------------------------------------------------------

    def do(self, verb: str, **given: object) -> None:
        body = {
            "input": {name: str(value) for name, value in given.items()},
            "command_id": str(uuid4()),
            "actor": "uid:1000",
        }
        (reply,) = self.service().handle([Request(f"bank.{verb}", body)])
        assert isinstance(reply, dict), reply

    def fill(self, purse: int, amount: int = 100) -> None:
        self.do("fill", purse_id=purse, amount=amount)
        self.money += amount

    def transfer(self, id_: int, payer: int = 1, payee: int = 2, amount: int = 10) -> None:
        self.requested[id_] = (payer, payee, amount)
        self.do("transfer", transfer_id=id_, payer=payer, payee=payee, amount=amount)

    # --- copies --------------------------------------------------------------------------------

    def copy_list(self) -> Path:
        """A copy of the list while nothing runs."""
        self.worklist.close()
        copy = self._folder / f"copy-{uuid4().hex}.db"
        shutil.copy(self._list_file, copy)
        self.worklist = self._open_list()
        return copy

    def restore_list(self, copy: Path | None) -> None:
        """Go on with a copy of the list, or without one."""
        self.worklist.close()
        self._lists += 1
        if copy is not None:
            shutil.copy(copy, self._list_file)
        self.worklist = self._open_list()

    def restore_store(self, head: int) -> None:
        """Go on with the store as it was at about a position. What was requested later was not."""
        while 0 < head < self.store.head() and self._is_one_command(head):
            head -= 1
        earlier = MemoryStore(now_us=self.now_us)
        for recorded in self.store._log[:head]:
            earlier._log.append(recorded)
            earlier._streams.setdefault(recorded.stream, []).append(recorded)
            earlier._by_event_id[recorded.event_id] = recorded
        self.store = earlier
        self.requested = {id_: given for id_, given in self.requested.items() if self.events(TRANSFER, id_)}
        events = map(self.codec.decode, self.store._log)
        self.money = sum(event.amount for event in events if isinstance(event, PurseFilled))

    def _is_one_command(self, position: int) -> bool:
        """Whether the events at a position and after it are of one command: no store is cut between them."""
        one, other = self.store._log[position - 1 : position + 1]
        return one.stream == other.stream and (
            self.codec.metadata(one).command_id == self.codec.metadata(other).command_id
        )

    # --- what is stored ------------------------------------------------------------------------

    def events(self, aggregate: Any, id_: int) -> list[Recorded]:
        return list(self.store.read_stream(aggregate.stream_of(id_)))

    def purse(self, id_: int) -> Purse:
        purse = Purse()
        for recorded in self.events(PURSE, id_):
            if isinstance(event := self.codec.decode(recorded), PURSE.events):
                purse = evolve_purse(purse, event)
        return purse

    def outcomes(self, id_: int) -> list[str]:
        """The outcomes with which a transfer was finished: one, once it has ended."""
        decoded = map(self.codec.decode, self.events(TRANSFER, id_))
        return [event.outcome for event in decoded if isinstance(event, TransferFinished)]

    def instance(self, id_: int) -> Instance:
        return self._instances().read([id_])[id_].instance

    def types(self, id_: int) -> list[str]:
        """What happened in the instance of a transfer."""
        found = self.store.read_stream(self._instances().stream_of(id_))
        return [each.type.removeprefix("process-").removesuffix(".v1") for each in found]

    def _instances(self) -> Instances:
        return Instances(self.process, store=self.store, codec=self.codec, pause=lambda _: None)

    def listed(self, id_: int) -> OpenInstance | None:
        return self.worklist.instance(self.process.name, id_)

    # --- what must hold ------------------------------------------------------------------------

    def settle(self) -> None:
        """Let a manager work, and then time pass, until everything that can end has ended."""
        for _ in range(6):
            self.run()
            self.us += 120_000_000
            if self.worklist.checkpoint(
                "moving"
            ).position == self.store.head() and not self.worklist.instances(limit=1):
                return

    def check(self) -> None:
        """Each command has one effect at most, and no purse is overdrawn."""
        effects: Counter[tuple[str, UUID]] = Counter()
        for recorded in self.store._log:
            if not recorded.stream.startswith("process-"):
                effects[recorded.type, self.codec.metadata(recorded).command_id] += 1
        assert {key: count for key, count in effects.items() if count > 1} == {}
        for type_ in ("money-taken.v1", "transfer-finished.v1"):
            streams = Counter(
                (self._transfer_of(recorded)) for recorded in self.store._log if recorded.type == type_
            )
            assert {id_: count for id_, count in streams.items() if count > 1} == {}, type_

    def _transfer_of(self, recorded: Recorded) -> int:
        event: Any = self.codec.decode(recorded)
        return int(getattr(event, "transfer_id", 0)) or TRANSFER.id_of(recorded.stream)

    def check_at_the_end(self) -> None:
        """Every transfer has ended, and the money is where the outcomes say."""
        self.check()
        assert self.worklist.instances(limit=99) == []
        moved: Counter[int] = Counter()
        for id_, (payer, payee, amount) in self.requested.items():
            assert len(self.outcomes(id_)) == 1, f"transfer {id_}: {self.outcomes(id_)} {self.types(id_)}"
            if self.outcomes(id_) == ["done"]:
                moved += Counter({payer: 0, payee: amount})
                moved[payer] -= amount
        purses = {
            int(each.stream.rpartition("-")[2]) for each in self.store.read_all(0, 9**9, prefixes=["purse-"])
        }
        assert sum(self.purse(id_).money for id_ in purses) == self.money
        assert all(self.purse(id_).money >= 0 for id_ in purses)


def with_react(process: Process[Any], react: Callable[[Any, Any], Any]) -> Process[Any]:
    """The process with other rules."""
    return replace(process, react=react)


def without(parts: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if name not in names}


class Paused:
    """A part whose caller pauses before every call, and once more with the result: it may be lost then."""

    def __init__(self, actor: Actor, part: Any, name: str) -> None:
        self._actor, self._part, self._name = actor, part, name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self._actor.pause(f"{self._name}.{method}")
            result = getattr(self._part, method)(*args, **more)
            return iter(list(result)) if isinstance(result, Iterator) else result

        return call


def paused_parts(actor: Actor, bank: Bank) -> dict[str, Any]:
    """The parts of a manager that pauses before every call, and has the lease always."""
    store = Paused(actor, until_caught_up(bank.store), "store")
    worklist = replaced(bank.worklist, take_lease=lambda *_, **__: True)
    service = bank.service(store)
    return {
        "store": store,
        "worklist": Paused(actor, worklist, "worklist"),
        "caller": Paused(actor, ServiceCaller(service.handle), "caller"),
    }


def leading(bank: Bank) -> dict[str, Any]:
    """The parts of a manager that has the lease always."""
    return {"worklist": replaced(bank.worklist, take_lease=lambda *_, **__: True)}
