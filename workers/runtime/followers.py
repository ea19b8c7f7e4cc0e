"""Threads that follow the store: run, wait out an outage, run again, stop.

Promise: a run starts at the checkpoint, so no event is lost, and with idempotent reactions none has a second effect.
Refusal: no event is skipped because of an outage.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter

from adapters.log import Log
from domain.kernel.errors import EsError
from domain.kernel.events import Position, Recorded
from domain.kernel.messages import Body
from domain.kernel.ports.event_store import CaughtUp, EventStore

_SOUND_AFTER_S = 5.0
"""A run that has lasted for so long after a failure has its parts again: a run without them fails sooner."""
_SAVE_INTERVAL_S = 1.0
"""The minimum interval between two saves of a checkpoint. After a crash the events since the last save come again."""


class Follower:
    """One thread. It retries after an `EsError`; any other exception is a bug and stops the worker.

    `on_wait` is called with its name after each failed run, `on_work` when a run has lasted for some seconds since.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Callable[[], bool]], None],
        *,
        stopping: threading.Event,
        on_wait: Callable[[str, EsError], None],
        on_work: Callable[[str], None],
        log: Log,
    ) -> None:
        self.crashed: BaseException | None = None
        self._run = run
        self._stopping = stopping
        self._on_wait = on_wait
        self._on_work = on_work
        self._started_s: float | None = None
        """When the run after a failure started; None once it is sound."""
        self._log = log
        self._thread = threading.Thread(target=self._supervise, name=name)
        self._thread.start()

    def _supervise(self) -> None:
        retrying = Retrying(
            retry=retry_if_exception_type(EsError),
            wait=wait_exponential_jitter(multiplier=0.1, max=5.0),
            sleep=self._sleep,
            before_sleep=self._report,
        )
        try:
            retrying(self._run, self._is_stopped)
        except BaseException as error:
            self.crashed = error
            self._log.error("follower-crashed", error, follower=self._thread.name)

    def _is_stopped(self) -> bool:
        """A run asks this again and again, between its calls of the parts."""
        if self._started_s is not None and time.monotonic() - self._started_s > _SOUND_AFTER_S:
            self._started_s = None
            self._on_work(self._thread.name)
        return self._stopping.is_set()

    def _sleep(self, seconds: float) -> None:
        self._stopping.wait(seconds)
        self._started_s = time.monotonic()

    def _report(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, EsError):
            self._started_s = None
            self._on_wait(self._thread.name, error)
            self._log.error("follower-waits", error, follower=self._thread.name, attempt=state.attempt_number)

    def join(self) -> None:
        self._thread.join()


class Checkpoints(Protocol):
    """Where followers keep their checkpoints. It must be as durable as the event store: the vault is."""

    def checkpoint(self, process: str) -> Position: ...
    def save_checkpoint(self, process: str, position: Position) -> None: ...
    def rewind_checkpoint(self, process: str, position: Position) -> None: ...


class CheckpointedFollowing:
    """The loop of a process: follow the store from a checkpoint, react to events, save the checkpoint."""

    def __init__(
        self,
        process: str,
        *,
        store: EventStore,
        checkpoints: Checkpoints,
        log: Log,
        monotonic_s: Callable[[], float] = time.monotonic,
        prefixes: Sequence[str] | None = None,
        batch_limit: int = 1,
    ) -> None:
        """`process` names the checkpoint; only streams with one of `prefixes` are followed."""
        self._process = process
        self._store = store
        self._checkpoints = checkpoints
        self._log = log
        self._monotonic_s = monotonic_s
        self._prefixes = prefixes
        self._batch_limit = batch_limit
        self.reached = Position(0)
        """The position up to which `react` has returned for every event."""

    def run(
        self,
        react: Callable[[Sequence[Recorded]], None],
        stopped: Callable[[], bool],
        *,
        after_each: Callable[[], None] = lambda: None,
    ) -> None:
        """Call `react` with every event, at most `batch_limit` at once, until `stopped()`.

        `after_each` is called after each reaction and, while the store is idle, several times a second. An exception
        of either ends the run; the next run starts at the checkpoint.
        """
        self.reached = saved = self._start()
        saved_at_s = self._monotonic_s()
        self._log.info("following", process=self._process, position=saved)
        batch: list[Recorded] = []
        for item in self._store.follow(saved, stopped=stopped, prefixes=self._prefixes):
            if not isinstance(item, CaughtUp):
                batch.append(item)
                if len(batch) < self._batch_limit:
                    continue
            if batch:
                react(batch)
            batch = []
            self.reached = max(self.reached, item.position)
            after_each()
            # Save after the reaction: a crash in between repeats it, never loses it.
            if self.reached > saved and self._monotonic_s() - saved_at_s > _SAVE_INTERVAL_S:
                self._checkpoints.save_checkpoint(self._process, self.reached)
                saved, saved_at_s = self.reached, self._monotonic_s()
        if self.reached > saved:
            self._checkpoints.save_checkpoint(self._process, self.reached)

    def _start(self) -> Position:
        """The checkpoint, or the head of a store that went back.

        The events of such a store were processed before. New events take the positions of the lost ones: a follower
        that waited until the store has grown to its checkpoint would skip them.
        """
        saved, head = self._checkpoints.checkpoint(self._process), self._store.head()
        if head >= saved:
            return saved
        self._log.warning("store-went-back", process=self._process, seen=saved, head=head)
        self._checkpoints.rewind_checkpoint(self._process, head)
        return head


def progress(store: EventStore, reached: Position) -> Body:
    """The progress of a follower: `{"position", "head", "lag"}`. The lag is no number of events: positions have gaps."""
    head = store.head()
    return {"position": reached, "head": head, "lag": max(head - reached, 0)}
