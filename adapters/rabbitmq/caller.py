"""The asking end of RabbitMQ: requests to `es.<role>`, answers by direct reply-to.

Requests of a pipeline that wait at the same moment travel in one message; one that waits alone goes at once.
Every message is persistent, mandatory and confirmed, under an id that it keeps when it is sent again.

Promise: an answer is handed out once, to the request it belongs to; whatever else arrives is dropped.
Refusal: a failed publish is never taken for "not done". It may have arrived, so it is sent again under the
same id, and when the time is up the outcome is called unknown.
"""

from __future__ import annotations

import collections
import itertools
import json
import math
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from adapters.rabbitmq.connection import (
    PART,
    PATIENCE_HEADER,
    PERSISTENT,
    REPLY_QUEUE,
    Link,
    Log,
    Properties,
    Silence,
    queue_of,
)
from domain.kernel.errors import AnsweredError, EsError, MessageTooLarge, PartUnavailable
from domain.kernel.messages import Body, Question, to_json

MAX_REQUEST_BYTES = 1 << 20
"""Of one request, as over the local transport."""
CHUNK_LIMIT = 128
"""Requests in one message: enough to pay for it many times over, few enough to share among workers."""
_CHUNK_BYTES = 1 << 18
_GOODBYE_S = 1.0
_AGAIN_S = 0.1  # until a message that found no queue, or was refused, is sent again
_QUEUE_PATIENCE_S = 3.0
"""How long a role whose queue nobody has made yet is waited for: its workers may just be starting."""
_FIRST_CONNECT_S = 4.0
"""How long a caller that never reached the broker tries to; one that has waits as long as the request may take."""


class _Item:
    """A request of a run, until its reply has been handed out."""

    __slots__ = ("deadline", "message", "raw", "reply")

    def __init__(self, raw: bytes, deadline: float, reply: Body | EsError | None = None) -> None:
        self.raw = raw
        self.deadline = deadline
        self.reply = reply
        self.message: _Message | None = None


class _Message:
    """Requests that travel together, and how far they came."""

    __slots__ = ("body", "give_up_at", "id", "is_stored", "items", "run", "was_returned", "was_sent")

    def __init__(self, run: _Run, items: list[_Item]) -> None:
        self.id = str(uuid.uuid4())
        self.run = run
        self.items = items
        self.body = b'{"requests":[' + b",".join(item.raw for item in items) + b"]}"
        self.was_sent = False  # so from here on it may have been carried out, whatever happens
        self.was_returned = False  # the last time, because there is no such queue
        self.is_stored = False
        self.give_up_at = math.inf  # monotonic seconds; finite while there is no such queue
        for item in items:
            item.message, item.raw = self, b""

    @property
    def is_wanted(self) -> bool:
        return any(item.reply is None for item in self.items)


class RabbitCaller:
    """Asks over one connection, opened when first needed and kept by a thread of its own."""

    def __init__(self, url: str, *, log: Log | None = None) -> None:
        self._url = url
        self._log = log or Silence()
        self._wire: _Wire | None = None

    def ask(self, role: str, kind: str, body: Mapping[str, Any], *, timeout_s: float = 10.0) -> Body:
        for reply in self.pipeline(role, [(kind, body)], timeout_s=timeout_s):
            if isinstance(reply, EsError):
                raise reply
            return reply
        raise AssertionError("a pipeline answers every request")

    def pipeline(
        self,
        role: str,
        requests: Iterable[Question],
        *,
        window: int = 512,
        timeout_s: float = 10.0,
    ) -> Iterator[Body | EsError]:
        run = _Run(self._open(), role, window, timeout_s)
        if isinstance(requests, list) and len(requests) == 1:
            return run.single(requests[0])
        return run.stream(requests)

    def _open(self) -> _Wire:
        if self._wire is None or self._wire.link.failure is not None:
            self.close()
            self._wire = _Wire(self._url, self._log)
        return self._wire

    def close(self) -> None:
        if self._wire is not None:
            # Nothing is lost by going at once, and a broker with an alarm doesn't even say goodbye.
            self._wire.link.close(wait_s=_GOODBYE_S)
            self._wire = None


# --- one run of requests ---------------------------------------------------------------------


class _Run:
    """The requests of one `pipeline` call, between its caller, its feeder and the I/O thread."""

    def __init__(self, wire: _Wire, role: str, window: int, timeout_s: float) -> None:
        self._wire = wire
        self.role = role
        self.timeout_s = timeout_s
        self._items: collections.deque[_Item] = collections.deque()  # in order of the requests
        self.unsent: collections.deque[_Item] = collections.deque()
        self.is_queued = False  # for the I/O thread to look at what is unsent
        self._room = threading.Semaphore(window)
        self.changed = threading.Condition()
        self._fed = False
        self._feed_error: BaseException | None = None
        self._abandoned = False

    def single(self, request: Question) -> Iterator[Body | EsError]:
        """The common case, one question: no second thread."""
        self._add(request)
        self._fed = True
        yield from self._drain()

    def stream(self, requests: Iterable[Question]) -> Iterator[Body | EsError]:
        """Many questions. A thread of its own reads them: standard input may make us wait while answers come."""
        feeder = threading.Thread(target=self._feed, args=(iter(requests),), name="feeder", daemon=True)
        feeder.start()
        yield from self._drain()
        feeder.join()
        if self._feed_error is not None:
            raise self._feed_error

    def _feed(self, requests: Iterator[Question]) -> None:
        try:
            for request in requests:
                self._room.acquire()
                if self._abandoned:
                    return
                self._add(request)
        except BaseException as error:
            self._feed_error = error
        finally:
            with self.changed:
                self._fed = True
                self.changed.notify()

    def _add(self, request: Question) -> None:
        item = _item(request, time.monotonic() + self.timeout_s)
        with self.changed:
            self._items.append(item)
            if len(self._items) == 1:
                self.changed.notify()
        if item.reply is None:
            self.unsent.append(item)
            if not self.is_queued:
                self.is_queued = True
                self._wire.send(self)

    def _drain(self) -> Iterator[Body | EsError]:
        """Yield replies in order until every request has one."""
        try:
            while replies := self._next():
                # All that came together make room together, so that what follows them travels together too.
                self._room.release(len(replies))
                yield from replies
        finally:
            self._abandon()

    def _next(self) -> list[Body | EsError]:
        """The replies that are next in order, as soon as there is one; none when all were handed out."""
        with self.changed:
            while True:
                replies: list[Body | EsError] = []
                while self._items and (reply := self._items[0].reply) is not None:
                    replies.append(reply)
                    self._items.popleft()
                if replies or (self._fed and not self._items):
                    return replies
                self._wait()

    def _wait(self) -> None:
        """Until something happens to the first request: an answer, or its deadline."""
        if not self._items:
            self.changed.wait()
            return
        first = self._items[0]
        deadline = min(first.deadline, self._wire.connect_deadline())
        if first.message is not None:
            deadline = min(deadline, first.message.give_up_at)
        if (wait_s := deadline - time.monotonic()) > 0 and self._wire.link.failure is None:
            self.changed.wait(wait_s)
        elif first.reply is None:
            self._give_up(first, self._why(first))

    def _why(self, item: _Item) -> EsError:
        message = item.message
        if self._wire.link.failure is not None:
            return self._wire.link.failure
        if message is None or not message.was_sent:
            return self._wire.trouble or PartUnavailable(PART, f"no connection within {self.timeout_s:g} s")
        if message.give_up_at < math.inf:
            return PartUnavailable(
                f"the {self.role} worker",
                f"it is not running, and RabbitMQ has no queue {queue_of(self.role)} yet",
                "Start the workers with `es up`; repeating is safe.",
            )
        if message.is_stored:
            part, what = f"the {self.role} worker", "RabbitMQ has the request, but no answer came"
        else:
            what = (
                f"no confirmation ({self._wire.trouble or 'it is connected; `es doctor` looks for an alarm'})"
            )
            part = PART
        return PartUnavailable(
            part,
            f"{what} within {self.timeout_s:g} s, so the outcome is unknown",
            "Repeat with the same command id; `es status` and `es logs` tell more.",
        )

    def _abandon(self) -> None:
        """Nobody wants what is still unanswered: it isn't sent again, and a late answer finds nobody."""
        self._abandoned = True
        self._room.release()  # the feeder may be waiting for room
        with self.changed:
            for item in self._items:
                if item.reply is None:
                    self._give_up(item, PartUnavailable(PART, "the caller went away"))

    def _give_up(self, item: _Item, error: EsError) -> None:
        item.reply = error
        if item.message is not None and not item.message.is_wanted:
            self._wire.forget(item.message)


def _item(request: Question, deadline: float) -> _Item:
    if isinstance(request, EsError):
        return _Item(b"", deadline, request)
    kind, body = request
    raw = to_json({"kind": kind, "body": body}).encode("utf-8", "surrogatepass")
    if len(raw) > MAX_REQUEST_BYTES:
        return _Item(b"", deadline, MessageTooLarge("the request", MAX_REQUEST_BYTES))
    return _Item(raw, deadline)


# --- the wire --------------------------------------------------------------------------------


class _Wire:
    """What the I/O thread does for all runs of a caller."""

    def __init__(self, url: str, log: Log) -> None:
        self._runs: collections.deque[_Run] = collections.deque()  # those with something unsent
        self.trouble: EsError | None = None
        """Why there is no connection now; None while there is one."""
        self._give_up_at = time.monotonic() + _FIRST_CONNECT_S
        # Of the I/O thread alone:
        self._channel: Any = None  # once it is set up
        self._unanswered: dict[str, _Message] = {}
        self._unconfirmed: dict[int, _Message] = {}  # by publish number on this channel
        self._published = 0
        self.link = Link(url, self, log=log, name="rabbitmq-caller")
        self.link.start()

    def connect_deadline(self) -> float:
        """When to stop waiting for a broker that was never reached; infinite once it was."""
        return self._give_up_at

    def send(self, run: _Run) -> None:
        """Have what is unsent in a run sent. From any thread."""
        self._runs.append(run)
        self.link.wake()

    def forget(self, message: _Message) -> None:
        """Nobody waits for it any more. From any thread."""
        self.link.call(lambda: void(self._unanswered.pop(message.id, None)))

    # --- in the I/O thread ---------------------------------------------------------------------

    def opened(self, channel: Any) -> None:
        self._published = 0
        self._unconfirmed.clear()
        channel.confirm_delivery(self._on_confirm)
        channel.add_on_return_callback(self._on_return)
        channel.basic_consume(
            REPLY_QUEUE, self._on_reply, auto_ack=True, callback=lambda _: self._set_up(channel)
        )

    def _set_up(self, channel: Any) -> None:
        self._channel, self._give_up_at, self.trouble = channel, math.inf, None
        self.link.settled()
        # What was published before may have arrived or not: the same message id goes out again.
        for message in list(self._unanswered.values()):
            self._publish(message)
        self.pump()

    def lost(self, error: EsError) -> None:
        self._channel, self.trouble = None, error
        if self.link.failure is not None:
            for message in self._unanswered.values():
                _wake(message.run)

    def pump(self) -> None:
        while self._channel is not None and self._runs:
            run = self._runs.popleft()
            run.is_queued = False  # before taking: what is added from here on queues the run again
            while run.unsent:
                self._publish(_Message(run, _chunk(run.unsent)))

    def _publish(self, message: _Message) -> None:
        if not message.is_wanted:
            self._unanswered.pop(message.id, None)
            return
        self._unanswered[message.id] = message
        if self._channel is None:
            return  # it goes out when the channel is set up again
        message.was_sent, message.was_returned, message.is_stored = True, False, False
        self._published += 1
        self._unconfirmed[self._published] = message
        self._channel.basic_publish(
            "",
            queue_of(message.run.role),
            message.body,
            Properties(
                message_id=message.id,
                correlation_id=message.id,
                reply_to=REPLY_QUEUE,
                delivery_mode=PERSISTENT,
                content_type="application/json",
                headers={PATIENCE_HEADER: round(message.run.timeout_s * 1000)},
            ),
            mandatory=True,
        )

    def _on_return(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if message := self._unanswered.get(properties.message_id):
            message.was_returned = True
            message.give_up_at = min(message.give_up_at, time.monotonic() + _QUEUE_PATIENCE_S)
            _wake(message.run)  # it waits for less long now
            self._publish_later(message)

    def _on_confirm(self, frame: Any) -> None:
        tag, refused = frame.method.delivery_tag, frame.method.NAME == "Basic.Nack"
        tags = [tag]
        if frame.method.multiple:
            tags = list(itertools.takewhile(lambda earlier: earlier <= tag, self._unconfirmed))
        for message in filter(None, (self._unconfirmed.pop(each, None) for each in tags)):
            if message.was_returned:
                continue  # confirmed all the same, though nobody has it
            message.is_stored, message.give_up_at = not refused, math.inf
            if refused:
                self._publish_later(message)

    def _publish_later(self, message: _Message) -> None:
        self.link.call_later(_AGAIN_S, lambda: self._publish(message))

    def _on_reply(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        message = self._unanswered.get(properties.correlation_id)
        if message is None:
            return  # late, or the second answer to a message that was sent twice
        try:
            replies = [
                (message.items[index], _reply(answer)) for index, answer in json.loads(body)["replies"]
            ]
        except (ValueError, KeyError, TypeError, IndexError):
            return  # not from a worker of ours; the time-out tells
        with message.run.changed:
            for item, reply in replies:
                item.reply = item.reply if item.reply is not None else reply
            message.run.changed.notify()
        if not message.is_wanted:
            del self._unanswered[message.id]


def _chunk(unsent: collections.deque[_Item]) -> list[_Item]:
    """What goes into the next message: at least one, then as long as count and size allow."""
    chunk = [unsent.popleft()]
    size = len(chunk[0].raw)
    while unsent and len(chunk) < CHUNK_LIMIT and size + len(unsent[0].raw) <= _CHUNK_BYTES:
        chunk.append(unsent.popleft())
        size += len(chunk[-1].raw)
    return chunk


def _wake(run: _Run) -> None:
    with run.changed:
        run.changed.notify()


def _reply(answer: Any) -> Body | EsError:
    if "error" in answer:
        return AnsweredError.from_wire(answer["error"])
    body: Body = answer["ok"]
    return body


def void(_: object) -> None:
    """Drop a result that isn't wanted."""
