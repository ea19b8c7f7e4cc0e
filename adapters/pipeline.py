"""Send many requests and yield their replies: what the pipelines of all transports share.

A transport returns replies as they arrive, with the numbers of their requests. They are put in order here, if they are
wanted in order.

Promise: a thread of its own reads the caller's requests, at most `WINDOW` ahead of the replies, so a slow
source never delays a reply. A single request needs no thread. Refusal: nothing about a transport is known
here. Only the standard library is imported, because every short-lived command pays for it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from domain.kernel.errors import EsError
from domain.kernel.messages import Body, Question

WINDOW = 512
"""How many requests of a pipeline may be without a reply. In order, a reply counts once all before it have arrived."""

Arrived = tuple[int, Body | EsError]
"""The number of a request, from 0, and its reply."""
_T = TypeVar("_T")


class Pipeline(ABC):
    """One run of requests. A subclass sends them and waits for their replies."""

    def __init__(self) -> None:
        self.is_fed = False
        """Whether the last request was added."""
        self._room = threading.Semaphore(WINDOW)
        self._is_over = False
        self._source_error: BaseException | None = None

    # --- for a subclass to provide -------------------------------------------------------------

    @abstractmethod
    def add(self, question: Question) -> None:
        """Take the next request. The feeder thread calls this while `next_replies` may be waiting."""

    @abstractmethod
    def next_replies(self) -> list[Arrived]:
        """Wait for replies and return those that are here, each once. None are left if the list is empty."""

    @abstractmethod
    def wake(self) -> None:
        """Let `next_replies` look at `is_fed` again. Called by the feeder thread, possibly after `end`."""

    @abstractmethod
    def end(self) -> None:
        """Abandon the requests without a reply. No reply is wanted any more."""

    # --- for the caller's thread ---------------------------------------------------------------

    def replies(
        self, questions: Iterable[Question], before_wait: Callable[[], None] = lambda: None
    ) -> Iterator[Body | EsError]:
        """Yield one reply per request, in order. An error of the source is raised after the replies.

        `before_wait` is called when all replies that have come were yielded.
        """
        return self._run(questions, _Order().ready, before_wait)

    def exchange(self, questions: Iterable[Question]) -> Iterator[Arrived]:
        """Yield one reply per request as they arrive. An error of the source is raised after the replies."""
        return self._run(questions, lambda arrived: arrived)

    def _run(
        self,
        questions: Iterable[Question],
        ready: Callable[[list[Arrived]], list[_T]],
        before_wait: Callable[[], None] = lambda: None,
    ) -> Iterator[_T]:
        """Yield what `ready` makes of the replies that arrived. Each element makes room for another request."""
        feeder = None
        if isinstance(questions, list) and len(questions) == 1:
            self.add(questions[0])
            self.is_fed = True
        else:
            feeder = threading.Thread(target=self._feed, args=(iter(questions),), name="feeder", daemon=True)
            feeder.start()
        try:
            while arrived := self.next_replies():
                if replies := ready(arrived):
                    # Make room for all of them in one step: the feeder can then add as many requests for one batch.
                    self._room.release(len(replies))
                    yield from replies
                    before_wait()
        finally:
            self._is_over = True
            self._room.release()  # the feeder may be waiting for room
            self.end()
        if feeder is not None:
            feeder.join()
        if self._source_error is not None:
            raise self._source_error

    # --- the feeder thread ---------------------------------------------------------------------

    def _feed(self, questions: Iterator[Question]) -> None:
        try:
            for question in questions:
                self._room.acquire()
                if self._is_over:
                    return
                self.add(question)
        except BaseException as error:
            self._source_error = error
        finally:
            self.is_fed = True
            self.wake()


class _Order:
    """Keeps replies that arrived early until all before them have arrived."""

    def __init__(self) -> None:
        self._early: dict[int, Body | EsError] = {}
        self._next_number = 0

    def ready(self, arrived: list[Arrived]) -> list[Body | EsError]:
        """The replies that are next in order."""
        early = self._early
        early.update(arrived)
        first = number = self._next_number
        while number in early:
            number += 1
        self._next_number = number
        return [early.pop(each) for each in range(first, number)]


def only_reply(replies: Iterator[Body | EsError]) -> Body:
    """The reply to a single request. Raises the error that it was answered with."""
    (reply,) = replies
    if isinstance(reply, EsError):
        raise reply
    return reply
