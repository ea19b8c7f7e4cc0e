"""One subscription, as the server's `AllSubscriptionFiltered` and `StreamSubscription` run it: catch-up, then live.

While it is live the server keeps a bounded number of messages for a client that does not take them. One more, and it
ends the subscription: "Consumer too slow". Servers from 24.2 on let it fall behind instead, and catch up again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from grpc import ServicerContext, StatusCode  # type: ignore[import-untyped]

from tests.support.node import log as logs
from tests.support.node import messages
from tests.support.node.endings import WAKE_S, abort, abort_deleted, is_ended_by_fault
from tests.support.node.faults import Fault, Point
from tests.support.node.log import Log, Page, StreamDeleted, StreamNotFound
from tests.support.node.messages import PAGE, ReadResp, filter_of, name_of, window_of

if TYPE_CHECKING:
    from tests.support.node.server import Node

_NO_POSITION = (1 << 64) - 1
_TOO_SLOW = (
    "Operation timed out: Consumer too slow to handle event while live. Client resubscription required."
)


class Source(Protocol):
    """What a subscription reads: all streams, or one."""

    def page(self, start: int) -> Page: ...
    def end(self) -> int: ...


class AllStreams:
    def __init__(self, log: Log, options: Any) -> None:
        self._log = log
        self._wanted = filter_of(options)
        self._window = window_of(options)

    def page(self, start: int) -> Page:
        return self._log.forwards(start, self._wanted, size=PAGE, window=self._window)

    def end(self) -> int:
        return self._log.next_position()


class OneStream:
    def __init__(self, log: Log, options: Any, context: ServicerContext) -> None:
        self._log = log
        self._name = name_of(options.stream)
        self._context = context

    def page(self, start: int) -> Page:
        try:
            return self._log.page_of(self._name, start, backwards=False, size=PAGE)
        except StreamNotFound:
            return Page([], start, 0, at_end=True)
        except StreamDeleted:
            abort_deleted(self._name, self._context)

    def end(self) -> int:
        return self._log.last_revision(self._name) + 1


class Subscription:
    def __init__(self, node: Node, options: Any, context: ServicerContext) -> None:
        self._node = node
        self._log = node.log
        self._options = options
        self._context = context
        is_all = options.WhichOneof("stream_option") == "all"
        self._source: Source = (
            AllStreams(self._log, options) if is_all else OneStream(self._log, options, context)
        )
        self._is_filtered = options.WhichOneof("filter_option") == "filter"
        self._interval = window_of(options) * max(1, options.filter.checkpointIntervalMultiplier)
        self._next = self._start(is_all)
        self._examined = 0  # since the last checkpoint
        self._has_matched = False

    def responses(self) -> Iterator[Any]:
        for message in self._messages():
            if is_ended_by_fault(self._node, Point.SUBSCRIBED, "", self._context):
                return
            yield message

    def _messages(self) -> Iterator[Any]:
        yield ReadResp(confirmation=ReadResp.SubscriptionConfirmation(subscription_id=str(uuid4())))
        while self._context.is_active():
            yield from self._catch_up()
            if self._node.says_caught_up:
                yield ReadResp(caught_up=ReadResp.CaughtUp())
            yield from self._live()

    def _start(self, is_all: bool) -> int:
        if not is_all:
            starts = {"revision": self._options.stream.revision + 1, "end": self._source.end()}
            return int(starts.get(self._options.stream.WhichOneof("revision_option"), 0))
        kind = self._options.all.WhichOneof("all_option")
        if kind != "position":
            return self._source.end() if kind == "end" else 0
        at = int(self._options.all.position.commit_position)
        # The server skips one record from the position on. If the one at the position was scavenged, that is the next.
        first = self._log.forwards(at, None, size=1, window=1)
        if self._node.falls_behind and first.records and first.records[0].position > at:
            return at
        return first.next

    def _catch_up(self) -> Iterator[Any]:
        while True:
            self._check()
            position, page = self._next, self._source.page(self._next)
            self._node.spend_on(page)
            for record in page.records:
                self._has_matched = True
                position = record.position
                yield messages.event(record, self._options)
            self._next = page.next
            self._examined += page.examined
            if page.at_end:
                break
            if self._is_filtered and self._examined >= self._interval:
                self._examined %= self._interval
                yield messages.checkpoint(position)
        if self._is_filtered and self._node.has_checkpoint_bug and not self._has_matched:
            yield messages.checkpoint(_NO_POSITION)
        elif self._is_filtered and self._node.falls_behind:
            yield messages.checkpoint(self._last_examined())
        self._next = min(self._next, self._source.end())  # also from a position that does not exist yet

    def _live(self) -> Iterator[Any]:
        """Ends where the subscription falls behind."""
        buffered: deque[tuple[int, Any]] = deque()
        while self._context.is_active():
            self._check()
            end = self._source.end()
            self._fill(buffered)
            if len(buffered) > self._node.live_buffer:
                yield from self._too_slow(buffered)
                return
            if buffered:
                yield buffered.popleft()[1]
                continue
            with self._log.changed:
                if self._source.end() == end:
                    self._log.changed.wait(WAKE_S)

    def _fill(self, buffered: deque[tuple[int, Any]]) -> None:
        """Buffer what was committed since the last time, with a checkpoint after each interval."""
        while self._source.end() > self._next:
            page = self._source.page(self._next)
            if page.next == self._next:
                return
            for record in page.records:
                self._has_matched = True
                buffered.append((record.position, messages.event(record, self._options)))
            self._next = page.next
            self._examined += page.examined
            if self._is_filtered and self._examined >= self._interval:
                self._examined = 0
                last = self._last_examined()
                buffered.append((last, messages.checkpoint(last)))

    def _last_examined(self) -> int:
        page = self._log.backwards(self._next, None, size=1, window=1)
        return page.records[0].position if page.records else 0

    def _too_slow(self, buffered: deque[tuple[int, Any]]) -> Iterator[Any]:
        """What is already on its way, then the end. Or, with a server from 24.2 on, the catch-up from there."""
        for _ in range(min(PAGE, self._node.live_buffer)):
            yield buffered.popleft()[1]
        if not self._node.falls_behind:
            self._context.abort(StatusCode.ABORTED, _TOO_SLOW)
        self._next = buffered[0][0]

    def _check(self) -> None:
        """End the call if the server was stopped, to restore another log or for good."""
        if self._node.log is not self._log or self._node.is_dead:
            abort(Fault.UNAVAILABLE, self._context)


def begins_at_a_record(log: Log, options: Any) -> bool:
    """Whether the server can read from the position of a read: a position is an address, not a number."""
    if options.WhichOneof("stream_option") != "all" or options.all.WhichOneof("all_option") != "position":
        return True
    return log.can_read_from(options.all.position.commit_position)


def start_of_read(options: Any) -> int:
    """A forward read includes its position. A backward read of all streams excludes it."""
    if options.WhichOneof("stream_option") == "stream":
        starts = {"revision": options.stream.revision, "start": 0}
        return int(starts.get(options.stream.WhichOneof("revision_option"), logs.DELETED))
    starts = {"position": options.all.position.commit_position, "start": 0}
    return int(starts.get(options.all.WhichOneof("all_option"), logs.DELETED))
