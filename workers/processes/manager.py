"""The manager of one process: it follows the store, lets instances take note, and does what follows.

Promise: an event is noted before the checkpoint moves past it, and what is noted is listed with the checkpoint. A crash at any
place repeats work, and a repeat has no second effect. An instance that cannot go on is in quarantine alone.
Refusal: nothing is decided here: the streams of the instances do. Nothing relies on being the only manager.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from adapters.clock import now_us
from adapters.log import Log
from domain.kernel.errors import EsError, shortened
from domain.kernel.events import BEGINNING, Position, Recorded
from domain.kernel.history import History, Mark, verified
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.worklist import Look, Opening, OpenInstance, Worklist
from domain.kernel.process import Process
from domain.kernel.process_instance import Answer, Fire, Instance
from workers.processes.instances import Happening, Instances, Read, told
from workers.processes.noting import UNKNOWN, Noting
from workers.processes.sending import Answered, Sender, Sending
from workers.runtime.followers import CheckpointedFollowing

BATCH_LIMIT = 256
_LOOK_LIMIT = 128
"""The number of instances that are looked at together."""
_LOOK_S = 1.0
"""How long looks may go on before the next events are read."""
LOOK_INTERVAL_S = 1.0
"""The interval in which the list is read without a reason: another worker may have changed it."""
LEASE_S = 15.0
_STANDBY_S = 0.2
_BACKOFF_S = (0.1, 60.0)
"""The shortest and the longest wait before a command without an answer is sent again."""


class _Evidence:
    """The newest event in the streams of the instances that the list relies on, kept beside the checkpoint.

    A store that was restored to a moment before it lacks what the list takes for noted, although it may hold everything up
    to the checkpoint. Then the store is read again from the beginning: an instance that has ended in the lost history may be
    open in the store, and is no longer in the list.
    """

    def __init__(self, process: str, store: EventStore, worklist: Worklist, log: Log) -> None:
        self._process = process
        self._name = f"{process} notes"  # no process has such a name
        self._store = store
        self._worklist = worklist
        self._log = log
        self._history = History()

    def examine(self, now_us: int) -> None:
        """Rewind the checkpoint if the store lacks what the list relies on. Called before each run."""
        saved = self._worklist.checkpoint(self._name)
        found = verified(saved, self._store.fit, self._store.head())
        if found.diverged:
            self._log.warning("other-history", process=self._process, seen=saved.position, back_to=BEGINNING)
            # In this order: a crash in between repeats both.
            for name in (self._process, self._name):
                self._worklist.rewind_checkpoint(name, History(), now_us=now_us)
        self._history = History() if found.diverged else saved

    def rely_on(self, position: Position) -> None:
        """Keep the event at a position as evidence, before the list relies on it."""
        if position <= self._history.position:
            return
        for recorded in self._store.read_all(position - 1, 1):
            self._history = self._history.reach(Mark(recorded.position, recorded.event_id))
            self._worklist.save_checkpoint(self._name, self._history)


class Manager:
    def __init__(
        self,
        process: Process[Any],
        *,
        store: EventStore,
        types: Sequence[str],
        worklist: Worklist,
        instances: Instances,
        noting: Noting,
        sender: Sender,
        owner: str,
        log: Log,
        now_us: Callable[[], int] = now_us,
        monotonic_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`owner` names the manager in its lease. `jitter` returns a number from 0 to 1."""
        self.name = process.name
        self._worklist = worklist
        self._instances = instances
        self._noting = noting
        self._sender = sender
        self._owner = owner
        self._log = log
        self._now_us = now_us
        self._monotonic_s = monotonic_s
        self._pause = pause
        self._jitter = jitter
        self._evidence = _Evidence(process.name, store, worklist, log)
        self._stopped: Callable[[], bool] = lambda: False
        self._following = CheckpointedFollowing(
            process.name,
            store=store,
            checkpoints=worklist,
            log=log,
            monotonic_s=monotonic_s,
            now_us=now_us,
            types=types,
            batch_limit=BATCH_LIMIT,
        )
        self._leased_until_s = self._look_at_s = float("-inf")

    @property
    def reached(self) -> Position:
        """The position up to which every event is noted, by this manager or by the one that holds the lease."""
        return max(self._following.reached, self._worklist.checkpoint(self.name).position)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Follow until `stopped()`, while no other manager does. Raises if a part fails; the next run resumes."""
        self._look_at_s = float("-inf")
        self._stopped = lambda: stopped() or self._monotonic_s() > self._leased_until_s
        while not stopped():
            if self._leads():
                self._evidence.examine(self._now_us())
                self._following.run(self._react, self._stopped, after_each=self._after_each)
            else:
                self._pause(_STANDBY_S)
        self._leased_until_s = float("-inf")
        with suppress(EsError):
            self._worklist.release_lease(self.name, self._owner)

    def _leads(self) -> bool:
        """Whether it has the lease. It is renewed at a third of its time."""
        now_s = self._monotonic_s()
        if now_s < self._leased_until_s - LEASE_S * 2 / 3:
            return True
        lease_us = round(LEASE_S * 1_000_000)
        taken = self._worklist.take_lease(self.name, self._owner, now_us=self._now_us(), lease_us=lease_us)
        self._leased_until_s = now_s + LEASE_S if taken else float("-inf")
        return taken

    # --- events --------------------------------------------------------------------------------

    def _react(self, events: Sequence[Recorded], reached: History) -> None:
        # Note first: what is listed is in its stream already, or held.
        if openings := self._noting.note(events):
            self._evidence.rely_on(self._instances.newest)
            self._list(openings, reached)

    def _list(self, openings: Sequence[Opening], reached: History) -> None:
        for opening in openings:
            if opening.held:
                self._log.warning(
                    "instance-quarantined",
                    process=self.name,
                    instance=opening.instance,
                    position=opening.position,
                    reason=opening.held,
                )
        since = self._following.saved.position
        self._worklist.open_instances(
            self.name, openings, reached=reached, since=since, now_us=self._now_us()
        )
        self._following.saved = reached
        self._look_at_s = float("-inf")

    # --- looks ---------------------------------------------------------------------------------

    def _after_each(self) -> None:
        if self._leads() and self._monotonic_s() >= self._look_at_s:
            self.look()

    def look(self) -> None:
        """Look at the instances that are due, and at what follows from that, for a while."""
        end_s = self._monotonic_s() + _LOOK_S
        while due := self._worklist.due(self.name, now_us=self._now_us(), limit=_LOOK_LIMIT):
            looks = [self._retried(listed) for listed in due if listed.error]
            if looks:
                self._evidence.rely_on(self._instances.newest)
            looks += self._looked([listed for listed in due if not listed.error])
            self._worklist.looked(self.name, looks)
            if self._monotonic_s() > end_s or self._stopped():
                return
        next_us = self._worklist.next_due_us(self.name)
        wait_s = LOOK_INTERVAL_S if next_us is None else (next_us - self._now_us()) / 1_000_000
        self._look_at_s = self._monotonic_s() + min(wait_s, LOOK_INTERVAL_S)

    def _retried(self, listed: OpenInstance) -> Look:
        """Note the held events of an instance in quarantine, because an operator asked for it."""
        held = self._worklist.held(self.name, listed.instance, limit=BATCH_LIMIT)
        released, openings, error = self._noting.release(listed.instance, held)
        if openings:
            self._list(openings, self._following.saved)
        self._log.info(
            "instance-retried", process=self.name, instance=listed.instance, reason=error, noted=len(released)
        )
        return Look(
            listed.instance,
            listed.revision,
            due_us=self._now_us(),
            ended=listed.instance == UNKNOWN and not error,
            error=error,
            released=released,
        )

    def _looked(self, listed: Sequence[OpenInstance]) -> list[Look]:
        """Send what has no answer, and note answers and timers that are due."""
        read = self._instances.read([each.instance for each in listed])
        failed = {instance: each.error for instance, each in read.items() if each.error}
        sound = {instance: each for instance, each in read.items() if not each.error}
        happenings, unanswered = self._answers(sound)
        # Timers last: an answer that is there may stop one.
        happenings += self._due_timers(sound)
        noted: set[int] = set()
        for happening, error in zip(happenings, self._instances.handle(happenings), strict=True):
            noted.add(happening.instance)
            if error:
                failed.setdefault(happening.instance, error)
        # What was noted now is looked at again; of the others the list relies on what was read.
        positions = [each.position for instance, each in read.items() if instance not in noted]
        self._evidence.rely_on(max(positions, default=BEGINNING))
        return [
            self._result(each, read[each.instance], failed, noted, unanswered.get(each.instance))
            for each in listed
        ]

    def _answers(self, read: Mapping[int, Read]) -> tuple[list[Happening], dict[int, EsError]]:
        """The answers to all open commands; and of the instances with one that got none, why."""
        sendings = [
            Sending(instance, issued, each.correlation_id)
            for instance, each in read.items()
            for issued in each.instance.issued.values()
        ]
        happenings: list[Happening] = []
        unanswered: dict[int, EsError] = {}
        for sending, reply in zip(sendings, self._sender.send(sendings), strict=True):
            if isinstance(reply, Answered):
                answer = Answer(sending.issued, reply.error, self._now_us(), reply.id)
                happenings.append(Happening(sending.instance, answer, sending.correlation_id))
            else:
                unanswered[sending.instance] = reply
        return happenings, unanswered

    def _due_timers(self, read: Mapping[int, Read]) -> list[Happening]:
        at_us = self._now_us()
        return [
            Happening(instance, Fire(name, timer, at_us), each.correlation_id)
            for instance, each in read.items()
            for name, timer in each.instance.timers.items()
            if timer.due_us <= at_us
        ]

    def _result(
        self,
        listed: OpenInstance,
        read: Read,
        failed: dict[int, str],
        noted: set[int],
        unanswered: EsError | None,
    ) -> Look:
        instance, revision = listed.instance, listed.revision
        if error := failed.get(instance):
            self._log.warning("instance-quarantined", process=self.name, instance=instance, reason=error)
            return Look(instance, revision, error=error)
        if instance in noted:  # look at what follows
            return Look(instance, revision, due_us=self._now_us())
        if not read.exists:  # an older copy of the store was restored
            return Look(instance, revision, ended=True)
        if not read.instance.is_open:
            return Look(instance, revision, ended=True)
        if unanswered is None:
            return Look(instance, revision, due_us=read.instance.due_us)
        attempts = listed.attempts + 1
        self._log.warning(
            "command-unanswered",
            process=self.name,
            instance=instance,
            attempts=attempts,
            code=unanswered.code,
        )
        return Look(
            instance,
            revision,
            due_us=self._sooner(read.instance, self._backoff_us(attempts)),
            attempts=attempts,
            waits_for=shortened(told(unanswered), 500),
        )

    def _sooner(self, instance: Instance, wait_us: int) -> int:
        again_us = self._now_us() + wait_us
        return again_us if instance.due_us is None else min(again_us, instance.due_us)

    def _backoff_us(self, attempts: int) -> int:
        wait_s: float = min(_BACKOFF_S[0] * 2.0 ** min(attempts, 20), _BACKOFF_S[1])
        return round(wait_s * (0.5 + self._jitter() / 2) * 1_000_000)
