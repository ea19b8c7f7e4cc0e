"""Threads that follow the store: run, wait and run again while a part is down, stop when asked.

A follower's work continues from a checkpoint, so running it again loses and repeats nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter

from adapters.log import Log
from domain.errors import EsError


class Follower:
    """One thread. An outage (`EsError`) is waited out; anything else is a bug and stops the worker."""

    def __init__(
        self, name: str, run: Callable[[Callable[[], bool]], None], *, stopping: threading.Event, log: Log
    ) -> None:
        self.crashed: BaseException | None = None
        self._run = run
        self._stopping = stopping
        self._log = log
        self._thread = threading.Thread(target=self._supervise, name=name)
        self._thread.start()

    def _supervise(self) -> None:
        patiently = Retrying(
            retry=retry_if_exception_type(EsError),
            wait=wait_exponential_jitter(initial=0.1, max=5.0),
            sleep=lambda seconds: void(self._stopping.wait(seconds)),
            before_sleep=self._tell,
        )
        try:
            patiently(self._run, self._stopping.is_set)
        except BaseException as error:
            self.crashed = error
            self._log.error("follower-crashed", error, follower=self._thread.name)

    def _tell(self, state: RetryCallState) -> None:
        if state.outcome is not None and (error := state.outcome.exception()) is not None:
            self._log.error("follower-waits", error, follower=self._thread.name, attempt=state.attempt_number)

    def join(self) -> None:
        self._thread.join()


def void(_: object) -> None:
    """Drop a result that isn't wanted."""
