"""Dead letters: messages that are unreadable, exceeded the delivery limit, or met an unavailable part.

Promise: looking changes nothing, and a message leaves the dead-letter queue only after its replacement is
stored. Refusal: a dead command holds personal data in the clear, so what is shown by default is never personal.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from adapters.rabbitmq.connection import depth_of, open_channel
from adapters.rabbitmq.errors import PART
from adapters.rabbitmq.messages import PERSISTENT, Properties, dead_queue_of, queue_of, requests_of
from domain.kernel.errors import EsError, Kind, PartUnavailable

_PLAIN_KIND = re.compile(r"[a-z][a-z0-9-]*(\.[a-z][a-z0-9-]*)*")
_PLAIN_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_PREFETCH_LIMIT = 65_535
_SILENCE_S = 2.0
_REQUEUE_TIMEOUT_S = 2.0
_REQUEUE_POLL_S = 0.01
_HELD_WAIT_S = 2.0
"""How long another consumer is waited for. Those of this program take less, unless there are very many letters."""
_KEPT_HEADERS = ("x-first-death-reason", "x-death")
_REASONS = {
    "rejected": "no worker can read it, or a part was unavailable when it was retried",
    "delivery_limit": "it exceeded the delivery limit; it may crash workers",
    "expired": "it expired in its queue",
    "maxlen": "its queue was full",
    "bad_headers": "no worker can read its headers; a retry leaves them out",
}


class DeadLetterNotFound(EsError):
    message_id: str
    code = "dead-letter-not-found"
    kind = Kind.NOT_FOUND
    hint = "List the ids with `es dead show ROLE`. Another operator may have retried or dropped this one."

    def __str__(self) -> str:
        return f"there is no dead letter {self.message_id}"


@dataclass(frozen=True, slots=True)
class QueueState:
    """How many messages a role's queue and its dead-letter queue hold, and how many workers consume."""

    role: str
    waiting: int
    workers: int
    dead: int


@dataclass(frozen=True, slots=True)
class DeadRequest:
    """A request of a dead letter. `body` may hold personal data."""

    kind: str
    command_id: str | None
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead message. `unreadable` is its text if it holds no requests; it may hold personal data."""

    message_id: str
    reason: str
    died_at: str | None
    requests: Sequence[DeadRequest]
    unreadable: str | None


@dataclass(slots=True)
class _Held:
    """A fetched message. It returns to its queue unless it is removed."""

    channel: Any
    tag: int
    properties: Any
    raw: bytes
    is_removed: bool = False

    def remove(self) -> None:
        self.channel.basic_ack(self.tag)
        self.is_removed = True


class DeadLetters:
    """The dead-letter queues of some roles. Each method uses a connection of its own."""

    def __init__(self, url: str, roles: Sequence[str]) -> None:
        self._url = url
        self.roles = roles

    def counts(self) -> list[QueueState]:
        """The state of each role's queues, in order of the roles. A missing queue is empty."""
        with open_channel(self._url) as channel:
            return [self._state(channel, role) for role in self.roles]

    def _state(self, channel: Any, role: str) -> QueueState:
        waiting, workers = depth_of(channel, queue_of(role))
        dead, _ = depth_of(channel, dead_queue_of(role))
        return QueueState(role, waiting, workers, dead)

    def show(self, role: str, *, limit: int = 100) -> list[DeadLetter]:
        """The oldest dead letters of a role. They stay in their queue."""
        with open_channel(self._url) as channel:
            return [_dead_letter(held) for held in _fetch(channel, role, _count_unheld(channel, role), limit)]

    def retry(self, role: str, message_ids: Collection[str] | None) -> int:
        """Send dead letters (None: all) to their role as new messages; return how many.

        Raises `DeadLetterNotFound` for a missing id, after the others were sent.
        """

        def send(channel: Any, held: _Held) -> None:
            # Publish before removing: a crash between them runs the message twice, never not at all.
            _publish(channel, queue_of(role), held.properties.message_id, held.raw)
            held.remove()

        return self._each(role, message_ids, send)

    def drop(self, role: str, message_ids: Collection[str] | None) -> int:
        """Remove dead letters (None: all) for ever; return how many. Raises like `retry`."""
        return self._each(role, message_ids, lambda _, held: held.remove())

    def _each(
        self, role: str, message_ids: Collection[str] | None, action: Callable[[Any, _Held], None]
    ) -> int:
        missing = set(message_ids or ())
        count = 0
        with open_channel(self._url) as channel:
            for held in _fetch(channel, role, _count_unheld(channel, role)):
                message_id = _id_of(held)
                if message_ids is None or message_id in message_ids:
                    action(channel, held)
                    missing.discard(message_id)
                    count += 1
        for message_id in sorted(missing):
            raise DeadLetterNotFound(message_id)
        return count

    def dead(self) -> int:
        """The number of dead letters of all roles. Those that a consumer holds do not count."""
        with open_channel(self._url) as channel:
            return sum(depth_of(channel, dead_queue_of(role))[0] for role in self.roles)

    def purge(self, about: Callable[[dict[str, Any]], Collection[int]]) -> Counter[int]:
        """Remove what is about some people from all dead letters, until a pass finds nothing more.

        `about` is called for each `{"kind", "body"}`, or with `{"unreadable": text}` for a message without requests; it
        returns the user ids of those people whose data it holds. The other requests of a message stay. Returns the number
        of removed requests and messages by user id. Raises `PartUnavailable` while another consumer holds letters.
        """
        removed: Counter[int] = Counter()
        with open_channel(self._url) as channel:
            for role in self.roles:
                is_clean = False
                while not is_clean:
                    found, is_clean = _purge_once(channel, role, about)
                    removed += found
        return removed


def _purge_once(
    channel: Any, role: str, about: Callable[[dict[str, Any]], Collection[int]]
) -> tuple[Counter[int], bool]:
    """What one pass removed, and whether it found nothing although no other consumer can have held a letter."""
    removed: Counter[int] = Counter()
    count, seen = _count_unheld(channel, role), 0
    for held in _fetch(channel, role, count):
        seen += 1
        removed += _purge(channel, role, held, about)
    _, others = depth_of(channel, dead_queue_of(role))
    return removed, not removed and not others and seen >= count


def _purge(
    channel: Any, role: str, held: _Held, about: Callable[[dict[str, Any]], Collection[int]]
) -> Counter[int]:
    requests = _requests(held.raw)
    if not requests:
        found = Counter(about({"unreadable": _text(held.raw)}))
        if found:
            held.remove()
        return found
    theirs = [about(item) for item in requests]
    kept = [item for item, people in zip(requests, theirs, strict=True) if not people]
    if len(kept) < len(requests):
        if kept:
            # Store the rest before removing the whole message: a crash between them must not lose the rest.
            raw = json.dumps({"requests": kept}, ensure_ascii=False).encode("utf-8", "surrogatepass")
            # Only the headers about its death: pika can read headers that it cannot write.
            given = held.properties.headers or {}
            headers = {name: value for name, value in given.items() if name in _KEPT_HEADERS}
            _publish(channel, dead_queue_of(role), held.properties.message_id, raw, headers)
        held.remove()
    return Counter(person for people in theirs for person in people)


# --- messages --------------------------------------------------------------------------------


def _fetch(channel: Any, role: str, count: int, limit: int | None = None) -> Iterator[_Held]:
    """Yield the messages of a role's dead-letter queue, which has `count`. Those that are not removed stay in it."""
    queue = dead_queue_of(role)
    removed = requeued = 0
    for held in _received(channel, queue, count if limit is None else min(count, limit)):
        yield held
        removed += held.is_removed
        requeued += not held.is_removed
    if requeued:
        channel.basic_nack(0, multiple=True, requeue=True)  # tag 0: every unacknowledged message
        # The broker requeues with a delay. Wait for it: otherwise the next look would miss some of them.
        deadline = time.monotonic() + _REQUEUE_TIMEOUT_S
        while depth_of(channel, queue)[0] < count - removed and time.monotonic() < deadline:
            time.sleep(_REQUEUE_POLL_S)


def _count_unheld(channel: Any, role: str) -> int:
    """The number of dead letters of a role, once no other consumer holds any. Raises `PartUnavailable` after 2 s.

    Consumers are counted: RabbitMQ 3.10 accepts several exclusive ones on a quorum queue, so none can keep others out.
    """
    deadline = time.monotonic() + _HELD_WAIT_S
    while True:
        count, consumers = depth_of(channel, dead_queue_of(role))
        if not consumers:
            return count
        if time.monotonic() > deadline:
            break
        time.sleep(_REQUEUE_POLL_S)
    raise PartUnavailable(
        PART,
        f"another consumer holds the dead letters of {role}",
        "Retry when it has ended: another `es dead`, or a program that consumes from the queue.",
    )


def _received(channel: Any, queue: str, count: int) -> Iterator[_Held]:
    """Yield at most `count` messages of a queue. They stay unacknowledged, so that each is seen once."""
    while count > 0:
        # Consume, do not get: one round trip per message would take 1 ms each. A prefetch of 0 means 2000 to a
        # quorum queue, so it is named. One consumer cannot hold more than 65,535 messages: another one continues.
        wanted = min(count, _PREFETCH_LIMIT)
        channel.basic_qos(prefetch_count=wanted)
        for method, properties, raw in channel.consume(queue, inactivity_timeout=_SILENCE_S):
            if method is None:
                waiting, _ = depth_of(channel, queue)
                if not waiting:  # another operator holds or has removed the others
                    count = 0
                    break
                raise PartUnavailable(PART, f"{queue} delivers no messages, but it holds {waiting}")
            yield _Held(channel, method.delivery_tag, properties, raw)
            count -= 1
            wanted -= 1
            if not wanted:
                break
        channel.cancel()


def _publish(channel: Any, queue: str, message_id: str | None, raw: bytes, headers: Any = None) -> None:
    """Store a message. Raises unless the broker confirms it."""
    properties = Properties(
        message_id=message_id, headers=headers, delivery_mode=PERSISTENT, content_type="application/json"
    )
    channel.basic_publish("", queue, raw, properties, mandatory=True)


def _dead_letter(held: _Held) -> DeadLetter:
    death = _death(held.properties)
    reason = "bad_headers" if held.properties.has_bad_headers else _first_reason(held.properties, death)
    requests = _requests(held.raw)
    return DeadLetter(
        message_id=_id_of(held),
        reason=_REASONS.get(reason, "unknown"),
        died_at=_time(death.get("time")),
        requests=[_dead_request(item) for item in requests],
        unreadable=None if requests else _text(held.raw),
    )


def _death(properties: Any) -> dict[str, Any]:
    """The broker's record of the last death. Any client may have set the header, so it may hold any value."""
    deaths = (properties.headers or {}).get("x-death")
    return deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}


def _first_reason(properties: Any, death: dict[str, Any]) -> str:
    return str((properties.headers or {}).get("x-first-death-reason") or death.get("reason") or "")


def _dead_request(item: dict[str, Any]) -> DeadRequest:
    kind, body = item.get("kind"), item.get("body")
    body = body if isinstance(body, dict) else {}
    try:
        command_id = str(UUID(body.get("command_id")))
    except (ValueError, TypeError, AttributeError):
        command_id = None
    plain = isinstance(kind, str) and _PLAIN_KIND.fullmatch(kind) is not None
    return DeadRequest(str(kind) if plain else "?", command_id, body)


def _requests(raw: bytes) -> list[dict[str, Any]]:
    """The requests of a message; none if it is unreadable."""
    try:
        return requests_of(raw)
    except ValueError:
        return []


def _id_of(held: _Held) -> str:
    """The message id, or a hash of the message if it has no id that can be typed."""
    given = held.properties.message_id
    if isinstance(given, str) and _PLAIN_ID.fullmatch(given):
        return given
    return hashlib.sha256(held.raw).hexdigest()[:16]


def _text(raw: bytes) -> str:
    """The text of any message. Bytes that are neither UTF-8 nor UTF-16 become escapes such as `\\xe9`."""
    if b"\0" in raw:
        # In UTF-16 the upper byte of common letters is 0: the first one tells the byte order.
        order = "utf-16-be" if raw.index(b"\0") % 2 == 0 else "utf-16-le"
        with suppress(UnicodeDecodeError):
            return raw.decode(order).removeprefix("\ufeff")
    return raw.decode(errors="backslashreplace")


def _time(value: Any) -> str | None:
    if not isinstance(value, datetime):
        return None
    return value.replace(tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
