"""The client of EventStoreDB: esdbclient, corrected. The only module that uses names esdbclient does not document.

Promise: a half-open connection is noticed, and a call is sent once. Refusal: no method of esdbclient is called that
retries or reconnects by itself, because a reconnect ends the reads of other threads without an error.

tests/adapters/eventstoredb/test_client.py holds the undocumented names and their signatures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote
from uuid import UUID, uuid4

import grpc  # type: ignore[import-untyped]
from esdbclient import EventStoreDBClient, NewEvent, RecordedEvent, StreamState
from esdbclient import exceptions as failures
from esdbclient.common import handle_rpc_error
from esdbclient.connection import ESDBConnection
from esdbclient.connection_spec import ConnectionOptions, ConnectionSpec
from esdbclient.protos.Grpc import shared_pb2, streams_pb2
from esdbclient.streams import StreamsService

from adapters.eventstoredb.deadline import Deadline
from adapters.eventstoredb.errors import PART, fault_of
from domain.kernel.errors import PartUnavailable, VersionConflict
from domain.kernel.events import NO_STREAM, Position, Recorded
from domain.kernel.ports.event_store import Append

Url = ConnectionSpec
UrlOptions = ConnectionOptions
AppendRequest = streams_pb2.BatchAppendReq
AppendResponse = streams_pb2.BatchAppendResp

_KEEPALIVE_MS = 2000
NO_RECORD = (failures.UnknownError, failures.ExceptionThrownByHandler)
"""What the server answers where a position is not the beginning of a record, and where it fails unexpectedly."""
_CHECKPOINT_WINDOW = 100  # events that the server examines between two checkpoints of a subscription
_SYSTEM_STREAMS = (r"\$[\s\S]*",)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_url(url: str) -> Url:
    """The parts of a URL. Raises ValueError or AssertionError, whose texts may repeat the URL."""
    return ConnectionSpec(url)


class Client(EventStoreDBClient):
    """One TCP connection to the leader."""

    def __init__(self, url: Url, deadline: Deadline) -> None:
        """Connect. With several hosts, find the leader before the deadline.

        Raises what `errors.FAILURES` lists.
        """
        self._deadline = deadline
        super().__init__(url.uri)

    @property
    def is_cluster(self) -> bool:
        """Whether a new client may find another leader."""
        return self.connection_spec.scheme != "esdb" or len(self.connection_spec.targets) > 1

    # --- calls -------------------------------------------------------------------------------

    def batch_append(
        self, requests: Mapping[int, AppendRequest], *, timeout_s: float
    ) -> Iterator[tuple[int, AppendResponse]]:
        """Send all requests over one BatchAppend call, and yield each response with the key of its request.

        esdbclient's own method needs a call and a thread per request, and reports a conflict as text.
        """
        sent = {_uuid(request.correlation_id): key for key, request in requests.items()}
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
        raise failures.EventStoreDBClientException("the call ended before the last response")

    def stream_page(
        self, stream: str, start: int | None, *, backwards: bool = False, size: int, timeout_s: float
    ) -> list[Recorded]:
        """At most `size` events of a stream from version `start` on. None is the first, or backwards the last."""
        try:
            events = self.read_stream(
                stream, stream_position=start, backwards=backwards, limit=size, timeout=timeout_s
            )
            return [recorded(event) for event in events]
        except failures.NotFound:
            return []

    def all_events(
        self, start: Position, prefixes: Sequence[str] | None, *, size: int, timeout_s: float
    ) -> Iterator[Recorded]:
        """At most `size` events in commit order, the one at `start` included."""
        events = self.read_all(
            commit_position=start or None,
            filter_by_stream_name=True,
            limit=size,
            timeout=timeout_s,
            **_filter(prefixes),
        )
        return map(recorded, events)

    def last(self, *, timeout_s: float) -> Recorded | None:
        """The last event of the store."""
        last = self.read_all(
            backwards=True,
            filter_exclude=_SYSTEM_STREAMS,
            filter_by_stream_name=True,
            limit=1,
            timeout=timeout_s,
        )
        return next((recorded(event) for event in last), None)

    def record_at(self, start: Position, *, timeout_s: float) -> Recorded | None:
        """The first record at a position or after it, also of the server's own streams.

        Raises what `NO_RECORD` lists if the position is not the beginning of a record.
        """
        events = self.read_all(commit_position=start or None, filter_exclude=(), limit=1, timeout=timeout_s)
        return next((recorded(event) for event in events), None)

    def subscribe(self, after: Position, prefixes: Sequence[str] | None) -> Iterator[RecordedEvent]:
        """Events after a position, then live ones, with checkpoints. Returns once the server has confirmed.

        The iteration has no deadline. It ends without an error when the connection is closed or replaced.
        """
        return self.streams.read(
            commit_position=after or None,
            subscribe=True,
            filter_by_stream_name=True,
            include_checkpoints=True,
            window_size=_CHECKPOINT_WINDOW,
            metadata=self._call_metadata,
            credentials=self._call_credentials,
            **_filter(prefixes),
        )

    # --- corrections of esdbclient -----------------------------------------------------------

    def _discover_preferred_node(self) -> ESDBConnection:
        """Find the leader: ask every host in turn, each for its share of the time that is left.

        esdbclient accepts the first answer, even of a host that is cut off and knows no leader. It gives every
        host the same time, so that silent hosts add up.
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
            # A single node may advertise an address that only itself can reach.
            if len(members) == 1 or address == target:
                return connection
            connection.close()
            return self._construct_esdb_connection(address)
        # A wrong password or CA, for example, says more than a host that is unavailable.
        final = [error for error in failed if not fault_of(error, is_cluster=True).retry]
        raise failures.DiscoveryFailed("no leader was found") from (final or failed)[0]

    def _construct_grpc_channel(self, grpc_target: str, grpc_options: Any = ()) -> Any:
        """Open a channel with a working keepalive.

        esdbclient passes the interval as `grpc.keepalive_ms`, which gRPC does not know. Without a ping, and a limit for
        its answer, a subscription waits for ever on a half-open connection.
        """
        options = self.connection_spec.options
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
        """Decode user and password first: esdbclient sends %40 where the URL has to spell an @ that way."""
        return super().construct_call_credentials(unquote(username or ""), unquote(password or ""))


# --- messages --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """The version of an item's last event. `position` is None if the server no longer knows it."""

    version: int
    position: Position | None


def append_request(item: Append, *, timeout_s: float) -> AppendRequest:
    """The message for one item. `timeout_s` is for the server: it answers within that time."""
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


def append_outcome(item: Append, response: AppendResponse) -> Stored | VersionConflict:
    """The outcome of one item. Raises esdbclient's exception if the server reports another failure."""
    if response.WhichOneof("result") == "success":
        success = response.success
        has_position = success.WhichOneof("position_option") == "position"
        position = int(success.position.commit_position) if has_position else None
        return Stored(int(success.current_revision), position)
    conflict = shared_pb2.WrongExpectedVersion()
    if response.error.details.Unpack(conflict):
        exists = conflict.WhichOneof("current_stream_revision_option") == "current_stream_revision"
        actual = int(conflict.current_stream_revision) if exists else NO_STREAM
        return VersionConflict(item.stream, item.expected_version, actual)
    if response.error.details.type_url.endswith("MaximumAppendEventSizeExceeded"):
        raise failures.MaximumAppendSizeExceededError  # of 24.10.4 and later; esdbclient does not know it
    StreamsService._convert_batch_append_resp(response, item.stream, item.expected_version)
    raise AssertionError("esdbclient raises for every other error")


def recorded(event: RecordedEvent) -> Recorded:
    """An event in the domain's terms. Raises PartUnavailable if the server is too old to send positions."""
    if event.commit_position is None or event.recorded_at is None:
        raise PartUnavailable(PART, "the server sends no positions", "Upgrade it to 22.10 or newer.")
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


def _filter(prefixes: Sequence[str] | None) -> Any:
    """Exclude system streams, and all streams without one of the prefixes.

    One pattern with one group: esdbclient joins several patterns to `^a|b$`, which matches too much.
    """
    if prefixes is None:
        return {"filter_exclude": _SYSTEM_STREAMS}
    names = "|".join(map(re.escape, prefixes)) if prefixes else "(?!)"
    return {"filter_include": (rf"(?!\$)(?:{names})[\s\S]*",)}


def _uuid(message: shared_pb2.UUID) -> UUID:
    if message.WhichOneof("value") == "structured":
        bits = message.structured.most_significant_bits, message.structured.least_significant_bits
        return UUID(bytes=b"".join(half.to_bytes(8, "big", signed=True) for half in bits))
    return UUID(message.string)
