"""Event store in EventStoreDB or KurrentDB, through esdbclient: the one module that imports it.

Promise: exact expected versions, a whole batch pipelined over one call, and after an unknown outcome the
same items again, at the same versions with the same event ids, until every answer is definite. Refusal: no
call without a deadline, no connection before the first call, no reading from a node that may lag.

What EventStoreDB does differently, and what is made of it here:

- It looks for an event id only where the expected version points, so the ids of a stream are compared
  here before an append. Across streams nobody compares them: an id may be used once per stream.
- It can't list streams (unless a system projection runs): `streams` reads everything, within a time limit.
- It lets people delete and truncate streams. This system never does. A stream that misses events is damaged.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

import grpc  # type: ignore[import-untyped]
from esdbclient import EventStoreDBClient, NewEvent, RecordedEvent, StreamState
from esdbclient import exceptions as failures
from esdbclient.common import handle_rpc_error
from esdbclient.connection import ESDBConnection
from esdbclient.connection_spec import ConnectionOptions, ConnectionSpec
from esdbclient.protos.Grpc import shared_pb2, streams_pb2
from esdbclient.streams import StreamsService
from tenacity import Retrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

from domain.kernel.errors import (
    Damaged,
    DuplicateEventId,
    EsError,
    InvalidInput,
    InvalidSetting,
    PartUnavailable,
    StoreBehind,
    VersionConflict,
)
from domain.kernel.events import BEGINNING, NO_STREAM, Position, Recorded
from domain.kernel.ports.event_store import Append, Appended, AppendResult, CaughtUp

PART = "EventStoreDB"

_PAGE = 500  # events per read: a deadline covers a whole read, so it must not hang on its consumer's pace
_BUFFERED = 1000  # events that a subscription reads ahead of its consumer
_WINDOW = 100  # events that the server looks at between two signs of life of a filtered subscription
_IDLE_S = 0.1
_OWED_S = 0.02
_NEXT_S = 0.002  # more is probably on its way: don't ask for the end after every event of many
_INFO_TIMEOUT_S = 2.0
_PROBE_TIMEOUT_S = 0.2  # `follow` has promised to look at `stopped` that often, even while a node is silent
_SHORTEST_TIMEOUT_S = 0.05
_AWAY_S = 0.25  # what could not be reached so shortly before is not waited for again
_KNOWN_IDS = 200_000
_LARGEST_APPEND = 16 * 1024 * 1024 - 10_000  # a larger message ends the call, and with it its neighbours
_KEEPALIVE_MS = 2000
_NOWHERE = 1 << 63
"""Not a position from here on: 24.2 to 24.10.4 send a checkpoint at 2^64-1 when nothing has matched so far."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SYSTEM_STREAMS = (r"\$[\s\S]*",)

T = TypeVar("T")


class EventStoreDbStore:
    def __init__(
        self, url: str, *, call_timeout_s: float = 3.0, settle_s: float = 6.0, listing_s: float = 1.5
    ) -> None:
        """`url` as in the EventStoreDB manual: `esdb://host:2113?tls=false`, several hosts, `esdb+discover://`.

        Nothing is connected yet. `call_timeout_s` is for one call, `settle_s` for a method with all its
        repeats, `listing_s` for `streams`. Finding the leader is part of that: gossipTimeout,
        discoveryInterval and maxDiscoverAttempts of the URL are not needed.
        Raises InvalidInput when the URL isn't one, without repeating it.
        """
        self._url = _checked(url)
        self._where = ", ".join(ConnectionSpec(self._url).targets)
        self._call_timeout_s = call_timeout_s
        self._settle_s = settle_s
        self._listing_s = listing_s
        self._known = _KnownIds(_KNOWN_IDS)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._client: _Client | None = None
        self._connected_in: int | None = None
        self._away: tuple[float, PartUnavailable] | None = None

    # --- append ------------------------------------------------------------------------------

    def append(self, batch: Sequence[Append]) -> list[AppendResult]:
        for item in batch:
            # Not an iterator: it would be used up by the first attempt, and a repeat would store nothing.
            if not isinstance(item.events, Sequence) or not item.events or item.expected_version < NO_STREAM:
                raise ValueError("an append needs events and an expected version of at least -1")
        rounds = _Rounds(batch)

        def attempt(client: _Client, deadline: _Deadline) -> None:
            while due := rounds.due():
                self._append_round(rounds, due, client, deadline)

        try:
            self._settled(attempt)
        except EsError as error:
            if not rounds.answers:
                raise
            self._away = None  # it answers, if not to everything
            rounds.give_up(error)
        return [rounds.answers[index] for index in range(len(batch))]

    def _append_round(
        self, rounds: _Rounds, due: Mapping[int, Append], client: _Client, deadline: _Deadline
    ) -> None:
        """One call for the next item of every stream. Raises when the outcome of any of them is unknown."""
        requests = self._requests(rounds, due, client, deadline)
        unknown: Exception | None = None
        for index, response in client.batch_append(requests, timeout_s=deadline.left_s()):
            item = due[index]
            try:
                answer = self._answer(item, response, client, deadline)
            except failures.EventStoreDBClientException as error:
                fault = _fault(error, client.is_cluster)
                if fault.again:
                    unknown = error
                    continue
                answer = fault.error
            rounds.answer(index, answer)
            # At another version the stream was deleted once, and its beginning is hidden.
            if isinstance(answer, Appended) and answer.version == item.expected_version + len(item.events):
                ids = [event.event_id for event in item.events]
                self._known.learn(item.stream, item.expected_version + 1, ids)
        if unknown is not None:
            raise unknown

    def _requests(
        self, rounds: _Rounds, due: Mapping[int, Append], client: _Client, deadline: _Deadline
    ) -> dict[int, streams_pb2.BatchAppendReq]:
        """What can be sent. The rest is answered: a message that is too large would end the call for all."""
        refused: dict[int, AppendResult | None] = {}
        for index, item in due.items():
            try:
                refused[index] = self._refused(item, client, deadline)
            except failures.StreamIsDeleted as error:  # for good; no business of the others
                refused[index] = _fault(error, client.is_cluster).error
        requests: dict[int, streams_pb2.BatchAppendReq] = {}
        for index, item in due.items():
            answer, request = refused[index], _request(item, deadline.left_s())
            if answer is None and request.ByteSize() > _LARGEST_APPEND:
                answer = _too_large()
            if answer is None:
                requests[index] = request
            else:
                rounds.answer(index, answer)
        return requests

    def _refused(self, item: Append, client: _Client, deadline: _Deadline) -> AppendResult | None:
        """Why an item can't be sent: EventStoreDB would store an event id twice in a stream without a word."""
        ids = [event.event_id for event in item.events]
        if len(set(ids)) == len(ids) and not self._stored_before(item, ids, client, deadline):
            return None
        last = _read_stream(client, item.stream, None, backwards=True, size=1, timeout_s=deadline.left_s())
        actual = last[0].stream_position if last else NO_STREAM
        if actual == item.expected_version:
            return DuplicateEventId(item.stream)
        return VersionConflict(item.stream, item.expected_version, actual)

    def _stored_before(self, item: Append, ids: Sequence[UUID], client: _Client, deadline: _Deadline) -> bool:
        """Whether the stream holds one of these ids at or below the expected version.

        Exact without a lock: up to the expected version a stream doesn't change any more.
        """
        while (version := self._known.reach(item.stream)) <= item.expected_version:
            size = min(item.expected_version - version + 1, _PAGE)
            page = _read_stream(client, item.stream, version, size=size, timeout_s=deadline.left_s())
            if not self._known.learn(item.stream, version, _ids_without_gap(page, version)):
                break  # the stream ends here, or it was truncated: the server will say what it thinks of that
        return self._known.any_of(item.stream, ids, up_to=item.expected_version)

    def _answer(
        self, item: Append, response: streams_pb2.BatchAppendResp, client: _Client, deadline: _Deadline
    ) -> AppendResult:
        if response.WhichOneof("result") == "success":
            version = int(response.success.current_revision)
            if response.success.WhichOneof("position_option") == "position":
                return Appended(version, int(response.success.position.commit_position))
            # A server may not remember where it put a repeated item.
            stored = _read_stream(client, item.stream, version, size=1, timeout_s=deadline.left_s())
            if not stored:
                raise failures.EventStoreDBClientException("what was just stored can't be read")
            return Appended(version, _recorded(stored[0]).position)
        conflict = shared_pb2.WrongExpectedVersion()
        if response.error.details.Unpack(conflict):
            exists = conflict.WhichOneof("current_stream_revision_option") == "current_stream_revision"
            actual = int(conflict.current_stream_revision) if exists else NO_STREAM
            return VersionConflict(item.stream, item.expected_version, actual)
        if response.error.details.type_url.endswith("MaximumAppendEventSizeExceeded"):
            return _too_large()  # of 24.10.4 and later; esdbclient doesn't know it
        StreamsService._convert_batch_append_resp(response, item.stream, item.expected_version)  # raises
        raise AssertionError("not an error")

    # --- read --------------------------------------------------------------------------------

    def read_stream(
        self, stream: str, from_version: int = 0, *, backwards: bool = False, limit: int | None = None
    ) -> Iterator[Recorded]:
        if backwards:
            return self._backwards(stream, from_version, limit)
        return self._forwards(stream, from_version, limit)

    def _forwards(self, stream: str, version: int, limit: int | None) -> Iterator[Recorded]:
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            page = self._stream_page(stream, version, size=size)
            self._known.learn(stream, version, _ids_without_gap(page, version))
            for event in map(_recorded, page):
                if event.version != version:
                    raise Damaged(PART, f"{stream} has no version {version}: it was deleted or truncated")
                version += 1
                yield event
            if len(page) < size:
                return
            left = left and left - size

    def _backwards(self, stream: str, from_version: int, limit: int | None) -> Iterator[Recorded]:
        below: int | None = None
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            # One more, because a read that starts at a version may or may not include it.
            page = self._stream_page(stream, below, backwards=True, size=size + (below is not None))
            events = map(_recorded, page)
            wanted = [event for event in events if below is None or event.version < below][:size]
            for event in wanted:
                if event.version < from_version:
                    return
                if below is not None and event.version != below - 1:
                    raise Damaged(PART, f"{stream} has no version {below - 1}: it was truncated")
                below = event.version
                yield event
            if len(wanted) < size and below is not None and below > from_version:
                raise Damaged(PART, f"{stream} has no version {below - 1}: it was deleted or truncated")
            if len(wanted) < size or below == 0:
                return
            left = left and left - size

    def _stream_page(
        self, stream: str, start: int | None, *, backwards: bool = False, size: int
    ) -> list[RecordedEvent]:
        def page(client: _Client, deadline: _Deadline) -> list[RecordedEvent]:
            left_s = deadline.left_s()
            return _read_stream(client, stream, start, backwards=backwards, size=size, timeout_s=left_s)

        return self._settled(page)

    def read_all(
        self, after: Position, limit: int, *, prefixes: Sequence[str] | None = None
    ) -> Iterator[Recorded]:
        at_end = prefixes is not None and not prefixes
        while limit > 0 and not at_end:
            page, at_end = self._all_page(after, min(limit, _PAGE), prefixes, settle_s=self._settle_s)
            for event in page:
                after = event.position
                if not event.type.startswith("$"):  # the tombstone of a stream that somebody deleted
                    limit -= 1
                    yield event

    def _all_page(
        self, after: Position, size: int, prefixes: Sequence[str] | None, *, settle_s: float
    ) -> tuple[list[Recorded], bool]:
        """At most `size` events after a position, and whether the store ends with them."""

        def page(client: _Client, deadline: _Deadline) -> tuple[list[Recorded], bool]:
            new: list[Recorded] = []
            count = 0
            # One more, because here a read includes the event at its position, unlike everywhere else.
            reading = _read_all(client, after, prefixes, size=size + 1, timeout_s=deadline.left_s())
            try:
                for event in map(_recorded, reading):
                    count += 1
                    if event.position > after:
                        new.append(event)
            except failures.DeadlineExceeded:
                # Wanted events that are rare take long to find. What came is in order, so it is kept: to start
                # over would end here again, for ever. Without any the server was busy, which is not silence.
                if not new:
                    raise failures.DeadlineExceeded("nothing was found in time") from None
                return new[:size], False
            return new[:size], count <= size

        return self._settled(page, settle_s=settle_s, call_timeout_s=settle_s)

    def head(self) -> Position:
        return self._settled(lambda client, deadline: _head(client, timeout_s=deadline.left_s()))

    def streams(self, *, after: str = "", prefix: str = "", limit: int = 100) -> list[tuple[str, int]]:
        """By reading all events of the prefix: for people who look around, not for code that has to be quick.

        Raises PartUnavailable when there is more than can be read in `listing_s`.
        """
        end_s = time.monotonic() + self._listing_s
        found: dict[str, int] = {}
        position, at_end = BEGINNING, False
        while not at_end:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise PartUnavailable(
                    PART,
                    f"it holds more events than can be read in {self._listing_s:g} s to list streams",
                    "Ask for a longer prefix, or for a stream by its name.",
                )
            prefixes, settle_s = [prefix] if prefix else None, min(left_s, self._settle_s)
            page, at_end = self._all_page(position, _PAGE, prefixes, settle_s=settle_s)
            position = page[-1].position if page else position
            found.update({e.stream: e.version for e in page if e.stream > after and e.type[:1] != "$"})
            if len(found) > limit + _PAGE:  # what is dropped here has `limit` smaller names before it
                found = {name: found[name] for name in sorted(found)[:limit]}
        return [(name, found[name]) for name in sorted(found)[:limit]]

    # --- follow ------------------------------------------------------------------------------

    def follow(
        self, after: Position, *, stopped: Callable[[], bool], prefixes: Sequence[str] | None = None
    ) -> Iterator[Recorded | CaughtUp]:
        if stopped():
            return
        self._check_usable()

        def connect() -> _Client:
            return self._new_client(_Deadline(time.monotonic() + self._settle_s, self._settle_s))

        live = _Subscription(connect, after, prefixes, patience_s=self._settle_s)
        try:
            while not stopped():
                item = live.next()
                self._check_usable()
                if item is not None:
                    yield item
        finally:
            live.close()

    # --- connection --------------------------------------------------------------------------

    def _settled(
        self,
        call: Callable[[_Client, _Deadline], T],
        *,
        settle_s: float | None = None,
        call_timeout_s: float | None = None,
    ) -> T:
        """Repeat a call until its answer is definite. Raises PartUnavailable when the time is up.

        Once that happened, the calls right after it fail at once: a worker that asks for many streams, one by
        one, must not wait out its patience for each.
        """
        if self._away is not None and time.monotonic() - self._away[0] < _AWAY_S:
            raise PartUnavailable(PART, self._away[1].reason, self._away[1].hint)
        settle_s = settle_s or self._settle_s
        deadline = _Deadline(time.monotonic() + settle_s, call_timeout_s or self._call_timeout_s)
        retrying = Retrying(
            retry=retry_if_exception_type(_UnknownOutcome),
            wait=wait_random_exponential(multiplier=0.02, max=1.0),
            stop=stop_before_delay(settle_s),
            sleep=self._pause,
            reraise=True,
        )
        try:
            answer: T = retrying(self._once, call, deadline)
            self._away = None
            return answer
        except _UnknownOutcome as unknown:
            # Not after an answer that was about one item: others may fare better.
            if isinstance(unknown.__cause__, _SILENCE):
                self._away = time.monotonic(), unknown.error
            raise unknown.error from unknown.__cause__

    def _once(self, call: Callable[[_Client, _Deadline], T], deadline: _Deadline) -> T:
        client: _Client | None = None
        try:
            client = self._connected(deadline)
            answer = call(client, deadline)
        except _FAILURES as error:
            fault = _fault(error, client is not None and client.is_cluster)
            if fault.anew:
                self._drop(client)
            if not isinstance(fault.error, PartUnavailable):
                raise fault.error from error
            away = PartUnavailable(PART, f"{self._where}: {fault.error.reason}", fault.error.hint)
            raise (_UnknownOutcome(away) if fault.again else away) from error
        # A read that is cancelled by closing its client looks as if it had come to its end.
        self._check_usable()
        return answer

    def _pause(self, pause_s: float) -> None:
        self._closed.wait(pause_s)

    def _connected(self, deadline: _Deadline) -> _Client:
        with self._lock:
            self._check_usable()
            if self._client is None:
                self._client = self._new_client(deadline)  # others wait for it, and their time passes, too
            return self._client

    def _new_client(self, deadline: _Deadline) -> _Client:
        self._check_usable()
        _check_files(ConnectionSpec(self._url).options)
        self._connected_in = os.getpid()
        return _Client(self._url, deadline)

    def _check_usable(self) -> None:
        if self._closed.is_set():
            raise PartUnavailable(PART, "it was closed")
        # After a fork gRPC hangs for ever, whatever the deadline.
        if self._connected_in not in (None, os.getpid()):
            raise PartUnavailable(
                PART, "its connection was inherited through a fork", "Use the store after forking only."
            )

    def _drop(self, client: _Client | None) -> None:
        """Connect anew for the next call. Others may still use the old client, so it is left to them.

        Closing it would end their reads too early, and quietly.
        """
        with self._lock:
            if self._client is client:
                self._client = None

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            client, self._client = self._client, None
        if client is not None and self._connected_in == os.getpid():
            client.close()


# --- the client ------------------------------------------------------------------------------


class _Client(EventStoreDBClient):
    """esdbclient with a working keepalive, its own TCP connection, and no repeats behind our back.

    Only calls that esdbclient doesn't decorate with retries are used: those would wait twice, reconnect, and
    end the reads and subscriptions of others.
    """

    def __init__(self, url: str, deadline: _Deadline) -> None:
        """With several hosts this looks for the leader already, until the deadline."""
        self._deadline = deadline
        super().__init__(url)

    def _discover_preferred_node(self) -> ESDBConnection:
        """Ask one host after the other. esdbclient's own asks only the first that answers, even if that one is cut
        off and knows no leader, and gives each host the same time, however many are silent.
        """
        failed: list[Exception] = []
        targets = self.connection_spec.targets
        for number, target in enumerate(targets):
            connection = self._construct_esdb_connection(target, (("grpc.lb_policy_name", "round_robin"),))
            try:
                members = connection.gossip.read(
                    timeout=self._deadline.left_s() / (len(targets) - number),
                    metadata=self._call_metadata,
                    credentials=self._call_credentials,
                )
                leader = self._select_preferred_member(members)
            except (failures.EventStoreDBClientException, grpc.RpcError) as error:
                connection.close()
                failed.append(error)
                continue
            address = f"{leader.address}:{leader.port}"
            if (
                len(members) == 1 or address == target
            ):  # a single node may advertise what only itself can reach
                return connection
            connection.close()
            return self._construct_esdb_connection(address)
        # A wrong password or CA, for example, tells more than a host that is down.
        telling = [error for error in failed if not _fault(error, cluster=True).again]
        raise failures.DiscoveryFailed("no leader was found") from (telling or failed)[0]

    def _construct_grpc_channel(self, grpc_target: str, grpc_options: Any = ()) -> Any:
        options = self.connection_spec.options
        # esdbclient passes the interval as `grpc.keepalive_ms`, which gRPC doesn't know. Without a ping, and
        # without a limit to its answer, a half-open connection keeps a subscription waiting for ever.
        timeout_ms = options.KeepAliveTimeout or _KEEPALIVE_MS
        working = (
            ("grpc.keepalive_time_ms", options.KeepAliveInterval or _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", timeout_ms),
            ("grpc.http2.ping_timeout_ms", timeout_ms),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.use_local_subchannel_pool", 1),  # else a new client inherits the old one's back-off
        )
        return super()._construct_grpc_channel(grpc_target, (*grpc_options, *working))

    def construct_call_credentials(self, username: str | None, password: str | None) -> Any:
        """esdbclient takes them as the URL spells them, and a URL has to spell some characters as %40."""
        return super().construct_call_credentials(unquote(username or ""), unquote(password or ""))

    @property
    def is_cluster(self) -> bool:
        """Whether the client can find another leader by itself."""
        return self.connection_spec.scheme != "esdb" or len(self.connection_spec.targets) > 1

    def batch_append(
        self, requests: Mapping[int, streams_pb2.BatchAppendReq], *, timeout_s: float
    ) -> Iterator[tuple[int, streams_pb2.BatchAppendResp]]:
        """Send all items over one BatchAppend call; their answers, by key, as they come.

        The client's own method spends a call and a thread on every item and tells a conflict as text.
        """
        sent = {_uuid(request.correlation_id): index for index, request in requests.items()}
        if not requests:
            return
        try:
            for response in self.streams._stub.BatchAppend(
                iter(requests.values()),
                timeout=timeout_s,
                metadata=self.streams._metadata(self._call_metadata, requires_leader=True),
                credentials=self._call_credentials,
            ):
                yield sent.pop(_uuid(response.correlation_id)), response
                if not sent:
                    return
        except grpc.RpcError as error:
            raise handle_rpc_error(error) from None
        raise failures.EventStoreDBClientException("the call ended before all answers were there")


def _request(item: Append, timeout_s: float) -> streams_pb2.BatchAppendReq:
    expected = item.expected_version
    return StreamsService._construct_batch_append_req(
        stream_name=item.stream,
        current_version=StreamState.NO_STREAM if expected == NO_STREAM else expected,
        events=[
            NewEvent(type=event.type, data=event.data, metadata=event.metadata, id=event.event_id)
            for event in item.events
        ],
        timeout=timeout_s,
        correlation_id=uuid4(),
    )


def _uuid(message: shared_pb2.UUID) -> UUID:
    if message.WhichOneof("value") == "structured":
        bits = message.structured.most_significant_bits, message.structured.least_significant_bits
        return UUID(bytes=b"".join(half.to_bytes(8, "big", signed=True) for half in bits))
    return UUID(message.string)


def _read_stream(
    client: _Client, stream: str, start: int | None, *, backwards: bool = False, size: int, timeout_s: float
) -> list[RecordedEvent]:
    try:
        return list(
            client.read_stream(
                stream, stream_position=start, backwards=backwards, limit=size, timeout=timeout_s
            )
        )
    except failures.NotFound:
        return []


def _read_all(
    client: _Client, start: Position, prefixes: Sequence[str] | None, *, size: int, timeout_s: float
) -> Iterator[RecordedEvent]:
    events: Iterator[RecordedEvent] = client.read_all(
        commit_position=start or None,
        filter_by_stream_name=True,
        limit=size,
        timeout=timeout_s,
        **_filter(prefixes),
    )
    return events


def _head(client: _Client, *, timeout_s: float) -> Position:
    last = client.read_all(
        backwards=True,
        filter_exclude=_SYSTEM_STREAMS,
        filter_by_stream_name=True,
        limit=1,
        timeout=timeout_s,
    )
    return max((_recorded(event).position for event in last), default=BEGINNING)


def _filter(prefixes: Sequence[str] | None) -> Any:
    """Without system streams; one group, because the client joins patterns to `^a|b$`, which takes in too much."""
    if prefixes is None:
        return {"filter_exclude": _SYSTEM_STREAMS}
    names = "|".join(map(re.escape, prefixes)) if prefixes else "(?!)"
    return {"filter_include": (rf"(?!\$)(?:{names})[\s\S]*",)}


def _ids_without_gap(events: Sequence[RecordedEvent], first: int) -> list[UUID]:
    versions = range(first, first + len(events))
    return [
        event.id for event, version in zip(events, versions, strict=True) if event.stream_position == version
    ]


def _recorded(event: RecordedEvent) -> Recorded:
    if event.commit_position is None or event.recorded_at is None:
        raise PartUnavailable(PART, "the server gives no positions", "Upgrade it to 22.10 or newer.")
    return Recorded(
        event.stream_name,
        event.stream_position,
        event.commit_position,
        (event.recorded_at - _EPOCH) // timedelta(microseconds=1),
        event.id,
        event.type,
        event.data,
        event.metadata,
    )


# --- one batch, one stream's ids -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Deadline:
    """The time that all calls of a method have together, and the most that one of them gets."""

    end_s: float
    call_timeout_s: float

    def left_s(self) -> float:
        """For the next call. Raises DeadlineExceeded when it need not begin any more."""
        left_s = min(self.call_timeout_s, self.end_s - time.monotonic())
        if left_s <= 0:
            raise failures.DeadlineExceeded("no time is left")
        return max(left_s, _SHORTEST_TIMEOUT_S)


class _Rounds:
    """A batch on its way: in every round the first unanswered item of each stream, so that order is kept."""

    def __init__(self, batch: Sequence[Append]) -> None:
        self.answers: dict[int, AppendResult] = {}
        self._batch = batch
        self._waiting: dict[str, deque[int]] = {}
        for index, item in enumerate(batch):
            self._waiting.setdefault(item.stream, deque()).append(index)

    def due(self) -> dict[int, Append]:
        return {line[0]: self._batch[line[0]] for line in self._waiting.values()}

    def answer(self, index: int, answer: AppendResult) -> None:
        self.answers[index] = answer
        line = self._waiting[self._batch[index].stream]
        line.popleft()
        if not line:
            del self._waiting[self._batch[index].stream]

    def give_up(self, error: EsError) -> None:
        """The rest is unknown or was never sent: its callers have to repeat it."""
        for line in self._waiting.values():
            self.answers.update(dict.fromkeys(line, error))


class _KnownIds:
    """The event ids of streams as far as they were read or written here, from their beginning, without a gap."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._streams: OrderedDict[str, dict[UUID, int]] = OrderedDict()
        self._reach: dict[str, int] = {}
        self._count = 0

    def reach(self, stream: str) -> int:
        """The first version whose id is not known."""
        with self._lock:
            return self._reach.get(stream, 0)

    def any_of(self, stream: str, ids: Sequence[UUID], *, up_to: int) -> bool:
        with self._lock:
            known = self._streams.get(stream, {})
            return any(known.get(id_, up_to + 1) <= up_to for id_ in ids)

    def learn(self, stream: str, first: int, ids: Sequence[UUID]) -> bool:
        """Take in the ids of versions from `first` on, without a gap; whether any was new."""
        with self._lock:
            reach = self._reach.get(stream, 0)
            new = ids[reach - first :] if first <= reach else ()
            if not new:
                return False
            known = self._streams.setdefault(stream, {})
            for version, id_ in enumerate(new, start=reach):
                known.setdefault(id_, version)
            self._streams.move_to_end(stream)
            self._reach[stream] = reach + len(new)
            self._count += len(new)
            while self._count > self._limit and len(self._streams) > 1:
                self._count -= self._reach.pop(self._streams.popitem(last=False)[0])
            return True


# --- subscription ----------------------------------------------------------------------------


class _Subscription:
    """One catch-up subscription with a client and a thread of its own.

    The thread only feeds a bounded queue, so whoever takes from it can look elsewhere at any time. That the
    queue is empty doesn't say that nothing is on its way: before `CaughtUp` the server is asked where its end
    is, and whether any wanted event up to there has not come yet.
    """

    def __init__(
        self,
        connect: Callable[[], _Client],
        after: Position,
        prefixes: Sequence[str] | None,
        *,
        patience_s: float,
    ) -> None:
        self._connect = connect
        self._prefixes = prefixes
        self._patience_s = patience_s
        self._after = after
        self._seen = after  # the last event that was handed out
        self._scanned = after  # how far the server has looked for wanted events, at least
        self._reached: Position | None = None  # of the last CaughtUp
        self._pause_s = 0.0
        self._silent_since = time.monotonic()
        self._queue: queue.Queue[RecordedEvent | Exception | None] = queue.Queue(_BUFFERED)
        self._closing = threading.Event()
        self._client: _Client | None = None
        self._confirmed = False
        self._thread = threading.Thread(target=self._feed, name="eventstoredb-subscription", daemon=True)
        self._thread.start()

    def next(self) -> Recorded | CaughtUp | None:
        """What is next; None when there is nothing to tell yet. Comes back within 0.2 s or so."""
        try:
            item = self._queue.get(timeout=self._pause_s) if self._pause_s else self._queue.get_nowait()
        except queue.Empty:
            return self._look()
        if item is None:
            raise PartUnavailable(PART, "the subscription ended")
        if isinstance(item, Exception):
            self._fail(item)
        self._pause_s = _NEXT_S
        self._silent_since = time.monotonic()
        position = item.commit_position or 0
        if position < _NOWHERE:
            self._scanned = max(self._scanned, position)
        if item.is_checkpoint or position <= self._seen:
            return None
        self._seen = position
        return None if item.is_system_event else _recorded(item)

    def _look(self) -> CaughtUp | None:
        client, confirmed = self._client, self._confirmed
        try:
            if client is None or not confirmed:
                self._pause_s = _OWED_S
                raise failures.DeadlineExceeded("no confirmation")
            head = self._caught_up_to(client)
        except failures.DeadlineExceeded as error:
            # Silence may be a busy server; for longer than our patience it is as good as a dead one.
            if time.monotonic() - self._silent_since > self._patience_s:
                self._fail(error)
            return None if self._reached is None else CaughtUp(self._reached)
        except _FAILURES as error:
            self._fail(error)
        if head is None:
            self._pause_s = _OWED_S
            if time.monotonic() - self._silent_since > self._patience_s:
                raise PartUnavailable(PART, "the subscription has stalled")
            return None
        self._pause_s = _IDLE_S
        self._silent_since = time.monotonic()
        self._reached = max(head, self._seen)
        return CaughtUp(self._reached)

    def _caught_up_to(self, client: _Client) -> Position | None:
        """The end of the store if every wanted event up to it was handed out, else None.

        The end is read first: what comes between the two reads doesn't count. Positions up to it are settled.
        """
        head = _head(client, timeout_s=_PROBE_TIMEOUT_S)
        if head < self._seen:
            raise StoreBehind(head, self._seen)
        if head > max(self._seen, self._reached or BEGINNING):
            start = max(self._scanned, self._reached or BEGINNING)
            wanted = _read_all(client, start, self._prefixes, size=2, timeout_s=_PROBE_TIMEOUT_S)
            if any(self._seen < _recorded(event).position <= head for event in wanted):
                return None
        return head

    def _feed(self) -> None:
        """Runs in the thread. The end of the iteration is a fault: esdbclient ends it quietly when it reconnects."""
        end: Exception | None = None
        try:
            self._client = client = self._connect()
            if self._closing.is_set():
                return
            subscription = client.streams.read(
                commit_position=self._after or None,
                subscribe=True,
                filter_by_stream_name=True,
                include_checkpoints=True,
                window_size=_WINDOW,
                metadata=client._call_metadata,
                credentials=client._call_credentials,
                **_filter(self._prefixes),
            )
            self._confirmed = True
            for event in subscription:
                if not self._put(event):
                    return
        except Exception as error:
            end = error
        self._put(end)

    def _put(self, item: RecordedEvent | Exception | None) -> bool:
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=_IDLE_S)
                return True
        return False

    def _fail(self, error: Exception) -> NoReturn:
        raise error if isinstance(error, EsError) else _fault(error, cluster=True).error from error

    def close(self) -> None:
        self._closing.set()
        if self._client is not None:
            self._client.close()
        self._thread.join(timeout=_IDLE_S * 2)


# --- errors ----------------------------------------------------------------------------------

_FAILURES = (failures.EventStoreDBClientException, grpc.RpcError, ValueError, OSError)
"""What the client raises; ValueError for a closed channel, OSError for a certificate that can't be read."""


_SILENCE = (
    failures.ServiceUnavailable,
    failures.GrpcDeadlineExceeded,
    failures.DiscoveryFailed,
    grpc.RpcError,
)
"""Failures after which the next call would most likely be in vain too."""


class _UnknownOutcome(Exception):
    """An attempt ended without a definite answer; `error` is for the caller if none ever comes."""

    def __init__(self, error: PartUnavailable) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class _Fault:
    """A failure of the client in the language of the domain.

    `again`: the outcome is unknown or may be another one next time. `anew`: not over this connection.
    """

    error: EsError
    again: bool = False
    anew: bool = False


def _fault(error: Exception, cluster: bool) -> _Fault:
    match error:
        case failures.NodeIsNotLeader():
            hint = "List all nodes in the URL (esdb://a,b,c), or use esdb+discover://, to follow the leader."
            return _Fault(PartUnavailable(PART, "the node is not the leader", hint), cluster, anew=True)
        case failures.StreamIsDeleted():
            return _Fault(Damaged(PART, "somebody deleted a stream for good"))
        case failures.MaximumAppendSizeExceededError():
            return _Fault(_too_large())
        case failures.SSLError():
            hint = "Give the CA in the URL: tlsCaFile=…; userCertFile and userKeyFile if the server asks for them."
            return _Fault(PartUnavailable(PART, "TLS could not be agreed on", hint))
        case OSError():
            reason = f"a file that the URL names can't be read: {error.strerror}"
            return _Fault(PartUnavailable(PART, reason, "Mend the path in the URL."))
        case failures.AccessDeniedError() | failures.BadRequestError() | failures.InvalidTransactionError():
            return _Fault(_refused(type(error).__name__))
        case failures.DeadlineExceeded():
            return _Fault(PartUnavailable(PART, "it did not answer in time"), again=True)
        case failures.DiscoveryFailed(__cause__=Exception() as cause) if not _fault(cause, cluster).again:
            return _fault(cause, cluster)
        case failures.DiscoveryFailed():
            return _Fault(PartUnavailable(PART, "no leader was found"), again=True, anew=True)
        case failures.ServiceUnavailable():
            return _Fault(PartUnavailable(PART, "it can't be reached"), again=True, anew=True)
    if _status(error) in _FINAL:
        return _Fault(_refused(_status(error)))
    return _Fault(PartUnavailable(PART, f"it failed ({type(error).__name__})"), again=True, anew=True)


_FINAL = ("PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_ARGUMENT", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED")


def _status(error: BaseException) -> str:
    """The name of the gRPC status behind a failure, or nothing."""
    cause = error.args[0] if error.args else None
    return str(cause.code().name) if isinstance(cause, grpc.Call) else ""


def _refused(reason: str) -> PartUnavailable:
    return PartUnavailable(
        PART, f"it refused the call ({reason})", "Check the user and its rights in the URL."
    )


def _too_large() -> InvalidInput:
    return InvalidInput("events", "are larger together than EventStoreDB takes in one append")


# --- URL -------------------------------------------------------------------------------------


def _checked(url: str) -> str:
    """The URL, if it can work. Errors don't repeat it: it may hold a password."""
    try:
        authority = urlsplit(url).netloc
        # Whatever follows a / ? # or @ of a password would pass for hosts and options, and errors show hosts.
        if "@" in url and (url.count("@") > 1 or "@" not in authority):
            reason = "has a second @, or one in the wrong place; percent-encode special characters"
            raise InvalidSetting("store", reason)
        options = ConnectionSpec(url).options
    except (ValueError, AssertionError) as error:
        if "password are required" in str(error):
            reason = "needs a user and a password when it uses TLS (esdb://user:password@host), or tls=false"
        else:
            reason = "is not an EventStoreDB URL, such as esdb://localhost:2113?tls=false"
        raise InvalidSetting("store", reason) from None
    if options.NodePreference != "leader":
        raise InvalidSetting("store", "must not ask for another node than the leader: others lag behind")
    if not options.TlsVerifyCert:
        raise InvalidSetting("store", "says tlsVerifyCert=false, which has no effect; use tlsCaFile=…")
    if bool(options.UserCertFile) != bool(options.UserKeyFile):
        raise InvalidSetting("store", "names one of userCertFile and userKeyFile, and needs both or neither")
    if "#" in url:
        raise InvalidSetting("store", "has a #; percent-encode special characters")
    if not (options.ConnectionName.isascii() and options.ConnectionName.isprintable()):
        raise InvalidSetting("store", "has a connectionName with other characters than printable ASCII")
    limits = (
        options.KeepAliveInterval,
        options.KeepAliveTimeout,
        options.MaxDiscoverAttempts,
        options.DiscoveryInterval,
        options.GossipTimeout,
    )
    if any(limit is not None and not 0 < limit < 1 << 31 for limit in limits):
        raise InvalidSetting("store", "has a number that is out of range")
    return url


def _check_files(options: ConnectionOptions) -> None:
    """Before gRPC sees them: it ends the process when a file is empty. Raises OSError for one that can't be read."""
    for name in ("TlsCaFile", "UserCertFile", "UserKeyFile"):
        path = getattr(options, name)
        if path and b"-----BEGIN" not in Path(path).read_bytes():
            reason = f"the file that the URL names as {name[0].lower()}{name[1:]} holds no certificate or key"
            raise PartUnavailable(PART, reason, "Mend the file, or the path in the URL.")


def server_facts(url: str, *, now_us: Callable[[], int]) -> tuple[tuple[int, ...] | None, int]:
    """The server's version, for example (23, 10, 7), and how far its clock is ahead of `now_us` at least, in µs.

    Both are of its `/info` page: the gRPC protocol has no call for them that every supported version answers.
    None and 0 when it doesn't say; HTTP tells whole seconds, so less than one comes out as 0.
    """
    import email.utils
    import http.client
    import json
    import ssl
    import urllib.request

    spec = ConnectionSpec(_checked(url))
    scheme = "https" if spec.options.Tls else "http"
    for target in spec.targets:  # any of them will do; this is only for showing
        before_us = now_us()
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, TypeError, AttributeError):
            context = ssl.create_default_context(cafile=spec.options.TlsCaFile)
            handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
            opener = urllib.request.build_opener(*handlers)
            with opener.open(
                f"{scheme}://{target}/info", timeout=_INFO_TIMEOUT_S / len(spec.targets)
            ) as page:
                said = json.load(page)
                date = email.utils.parsedate_to_datetime(page.headers["Date"])
            version = said.get("esVersion") or said.get("dbVersion") or ""
            numbers = tuple(int(part) for part in version.split("-")[0].split("."))
            least_us = int(date.timestamp()) * 1_000_000 - now_us()
            most_us = least_us + now_us() - before_us + 1_000_000
            return numbers, max(least_us, 0) or min(most_us, 0)
    return None, 0
