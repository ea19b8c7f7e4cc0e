"""Send many requests and yield their replies in order: what the pipelines of all transports share.

Promise: a thread of its own reads the caller's requests, at most `WINDOW` ahead of the replies, so a slow
source never delays a reply. A single request needs no thread. Refusal: nothing about a transport is known
here. Only the standard library is imported, because every short-lived command pays for it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from domain.kernel.errors import EsError
from domain.kernel.messages import Body, Question

WINDOW = 512
"""How many requests of a pipeline may be without a reply."""


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
    def next_replies(self) -> list[Body | EsError]:
        """Wait for the replies that are next in order. None are left if the list is empty."""

    @abstractmethod
    def wake(self) -> None:
        """Let `next_replies` look at `is_fed` again. Called by the feeder thread, possibly after `end`."""

    @abstractmethod
    def end(self) -> None:
        """Abandon the requests without a reply. No reply is wanted any more."""

    # --- for the caller's thread ---------------------------------------------------------------

    def replies(self, questions: Iterable[Question]) -> Iterator[Body | EsError]:
        """Yield one reply per request, in order. An error of the source is raised after the replies."""
        feeder = None
        if isinstance(questions, list) and len(questions) == 1:
            self.add(questions[0])
            self.is_fed = True
        else:
            feeder = threading.Thread(target=self._feed, args=(iter(questions),), name="feeder", daemon=True)
            feeder.start()
        try:
            while replies := self.next_replies():
                # Make room for all of them in one step: the feeder can then add as many requests for one batch.
                self._room.release(len(replies))
                yield from replies
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


def only_reply(replies: Iterator[Body | EsError]) -> Body:
    """The reply to a single request. Raises the error that it was answered with."""
    (reply,) = replies
    if isinstance(reply, EsError):
        raise reply
    return reply
