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

from adapters.clock import now_us
from adapters.log import Log
from domain.kernel.errors import EsError, OtherHistory
from domain.kernel.events import BEGINNING, Position, Recorded
from domain.kernel.history import Fit, History, Mark, verified
from domain.kernel.messages import Body
from domain.kernel.ports.event_store import CaughtUp, EventStore
from domain.kernel.vault_errors import vault_behind
from workers.runtime.shared_tail import SharedTail

_SOUND_AFTER_S = 5.0
"""A run that has lasted for so long after a failure has its parts again: a run without them fails sooner."""
_SAVE_INTERVAL_S = 1.0
"""The minimum interval between two saves of a checkpoint. After a crash the events since the last save come again."""


_VERIFY_INTERVAL_S = 5.0
"""The minimum interval between two looks at a mark of the history while a run lasts."""


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
            stop=lambda _: self._stopping.is_set(),  # a run whose part is missing does not come to ask for it
            retry_error_callback=lambda _: None,
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

    def checkpoint(self, process: str) -> History: ...
    def save_checkpoint(self, process: str, reached: History, *, since: Position = BEGINNING) -> None: ...
    def rewind_checkpoint(self, process: str, reached: History, *, now_us: int) -> None: ...


def resume(process: str, store: EventStore, checkpoints: Checkpoints, log: Log, now_us: int) -> History:
    """Where a process goes on: its checkpoint, or the last mark of it that the store has.

    A store that was restored from an older copy, or swapped, has another history after that mark. The checkpoint moves
    back to it, so no event of the new history is passed over; the effects of events that come again are idempotent.
    """
    saved = checkpoints.checkpoint(process)
    # The head after the checkpoint: another worker may move the checkpoint in between. The head before the marks:
    # the store may grow in between.
    found = verified(saved, store.fit, store.head())
    if found.diverged:
        back_to = found.history.position
        log.warning("other-history", process=process, seen=saved.position, back_to=back_to)
        checkpoints.rewind_checkpoint(process, found.history, now_us=now_us)
    return found.history


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
        now_us: Callable[[], int] = now_us,
        prefixes: Sequence[str] | None = None,
        types: Sequence[str] | None = None,
        batch_limit: int = 1,
        tail: SharedTail | None = None,
    ) -> None:
        """`process` names the checkpoint; `prefixes` and `types` choose the events, see `EventStore.follow`.

        With `tail` it shares a subscription with others.
        """
        self._process = process
        self._store = store
        self._follow = store.follow if tail is None else tail.follow
        self._checkpoints = checkpoints
        self._log = log
        self._monotonic_s = monotonic_s
        self._now_us = now_us
        self._prefixes = prefixes
        self._types = types
        self._batch_limit = batch_limit
        self._history = History()
        self.saved = History()
        """The checkpoint as this process knows it. A `react` that saves one itself sets it."""

    @property
    def reached(self) -> Position:
        """The position up to which `react` has returned for every event."""
        return self._history.position

    def run(
        self,
        react: Callable[[Sequence[Recorded], History], None],
        stopped: Callable[[], bool],
        *,
        after_each: Callable[[], None] = lambda: None,
    ) -> None:
        """Call `react` with every event, at most `batch_limit` at once, until `stopped()`.

        `react` also gets the history with these events. `after_each` is called after each reaction and, while the
        store is idle, several times a second. An exception of either ends the run; the next run starts at the
        checkpoint. Raises `OtherHistory` if the store was replaced, and `PartUnavailable` if the checkpoints were: the next
        run goes back, see `resume`.
        """
        self._history = self.saved = resume(
            self._process, self._store, self._checkpoints, self._log, self._now_us()
        )
        saved_at_s = self._monotonic_s()
        verify = Verification(self._store, self.saved, saved_at_s)
        self._log.info("following", process=self._process, position=self.saved.position)
        batch: list[Recorded] = []
        following = self._follow(
            self.saved.position, stopped=stopped, prefixes=self._prefixes, types=self._types
        )
        for item in following:
            now_s = self._monotonic_s()
            if verify(self._history, now_s):
                self._check_checkpoint()
            if not isinstance(item, CaughtUp):
                batch.append(item)
                if len(batch) < self._batch_limit:
                    continue
            reached = reached_with(self._history, [*batch[-1:], item])
            if batch:
                react(batch, reached)
            batch = []
            self._history = reached
            after_each()
            # Save after the reaction: a crash in between repeats it, never loses it.
            if reached != self.saved and now_s - saved_at_s > _SAVE_INTERVAL_S:
                self._save()
                saved_at_s = now_s
        if self._history != self.saved:
            self._save()

    def _save(self) -> None:
        self._checkpoints.save_checkpoint(self._process, self._history, since=self.saved.position)
        self.saved = self._history

    def _check_checkpoint(self) -> None:
        """Raise `PartUnavailable` if the checkpoints were restored from an older copy: no event may tell."""
        stored = self._checkpoints.checkpoint(self._process).position
        if stored < self.saved.position:
            raise vault_behind(self._process, stored, self.saved.position)


class Verification:
    """Looks up a mark now and then while a run lasts.

    It is the mark that was the last one at the look before. The newest one may be of the new history already.
    """

    def __init__(self, store: EventStore, history: History, now_s: float) -> None:
        self._store = store
        self._at_s = now_s
        self._marks = history.marks[-1:]

    def __call__(self, history: History, now_s: float) -> bool:
        """Whether it was time to look. Raises `OtherHistory`."""
        if now_s - self._at_s < _VERIFY_INTERVAL_S:
            return False
        for mark in self._marks:
            if self._store.fit(mark) is Fit.OTHER:
                raise OtherHistory(mark.position)
        self._at_s, self._marks = now_s, history.marks[-1:]
        return True


def reached_with(history: History, items: Sequence[Recorded | CaughtUp]) -> History:
    """The history after these items. Raises `OtherHistory` if it has another event at the position of one."""
    for item in items:
        if item.event_id is None:
            continue
        mark = Mark(item.position, item.event_id)
        last = history.marks[-1] if history.marks else None
        if last is not None and last.position == mark.position and last != mark:
            raise OtherHistory(mark.position)
        if mark != last:
            history = history.reach(mark)
    return history


def progress(store: EventStore, reached: Position) -> Body:
    """The progress of a follower: `{"position", "head", "lag"}`. The lag is no number of events: positions have gaps."""
    head = store.head()
    return {"position": reached, "head": head, "lag": max(head - reached, 0)}
