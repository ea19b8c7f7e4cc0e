"""The client of EventStoreDB: esdbclient, corrected. It finds the leader and opens the channel; the calls are our own.

Promise: a half-open connection is noticed, and a call is sent once. Refusal: no method of esdbclient is called that
retries or reconnects by itself, because a reconnect ends the reads of other threads without an error.

tests/adapters/eventstoredb/test_client.py holds the undocumented names and their signatures.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import unquote

from adapters.eventstoredb.append_call import AppendCall
from adapters.eventstoredb.deadline import Deadline
from adapters.eventstoredb.driver import (
    ESDBConnection,
    EventStoreDBClient,
    Url,
    failures,
    grpc,
    handle_rpc_error,
)
from adapters.eventstoredb.duplex import DuplexCall
from adapters.eventstoredb.errors import fault_of
from adapters.eventstoredb.messages import (
    AppendRequest,
    AppendResponse,
    ReadRequest,
    ReadResponse,
    Selection,
    all_request,
    recorded,
    stream_request,
    subscribe_request,
)
from domain.kernel.events import BEGINNING, Position, Recorded

_KEEPALIVE_MS = 2000
_READS_AT_ONCE = 256
"""A whole batch. gRPC keeps back the calls that exceed the limit of the server, by default 100 on a connection."""


class StreamPage(NamedTuple):
    """Events of a stream to read: at most `size` from version `start` on. None is the first, or backwards the last."""

    stream: str
    start: int | None
    size: int
    backwards: bool = False


class Client(EventStoreDBClient):
    """One TCP connection to the leader."""

    def __init__(self, url: Url, deadline: Deadline) -> None:
        """Connect. With several hosts, find the leader before the deadline.

        Raises what `errors.FAILURES` lists.
        """
        self._url = url
        self._deadline = deadline
        self._appends: AppendCall | None = None
        self._appends_lock = threading.Lock()
        super().__init__(url.uri)
        # At exit too, before the threads of gRPC end: it would wait for ever for a call that is open then.
        weakref.finalize(self, self._connection.close)

    @property
    def is_cluster(self) -> bool:
        """Whether a new client may find another leader."""
        return self._url.scheme != "esdb" or len(self._url.targets) > 1

    # --- calls -------------------------------------------------------------------------------

    def batch_append(
        self, requests: Mapping[int, AppendRequest], *, timeout_s: float
    ) -> Iterator[tuple[int, AppendResponse]]:
        """Send all requests over one open BatchAppend call, and yield each response with the key of its request.

        esdbclient's own method needs a call and a thread per request, and reports a conflict as text.
        """
        if not requests:
            return iter(())
        with self._appends_lock:
            if self._appends is None or (batch := self._appends.start(requests)) is None:
                self._appends = AppendCall(self._duplex(self.streams._stub.BatchAppend))
                batch = self._appends.start(requests)
        if batch is None:
            raise failures.ServiceUnavailable("the call ended at once")
        return batch.responses(timeout_s)

    def end_appends(self) -> None:
        """End the call that is open for appends: a thread waits for its answers. The next append opens another one."""
        with self._appends_lock:
            if self._appends is not None:
                self._appends.forget(())
            self._appends = None

    def stream_page(
        self, stream: str, start: int | None, *, backwards: bool = False, size: int, timeout_s: float
    ) -> list[Recorded]:
        """At most `size` events of a stream from version `start` on. None is the first, or backwards the last."""
        request = stream_request(stream, start, backwards=backwards, size=size)
        return list(self._events(self._read(request, timeout_s)))

    def stream_pages(
        self, pages: Sequence[StreamPage], deadline: Deadline
    ) -> Iterator[tuple[StreamPage, list[Recorded] | failures.StreamIsDeleted]]:
        """Read many pages at once over the connection, in about the time of one, and yield them in order.

        Raises what `errors.FAILURES` lists if one fails otherwise than by the deletion of its stream.
        """
        waiting, running = iter(pages), deque[tuple[StreamPage, Any]]()
        try:
            while True:
                for page in islice(waiting, _READS_AT_ONCE - len(running)):
                    request = stream_request(
                        page.stream, page.start, backwards=page.backwards, size=page.size
                    )
                    running.append((page, self._read(request, deadline.left_s())))
                if not running:
                    return
                page, call = running.popleft()
                try:
                    yield page, list(self._events(call))
                except failures.StreamIsDeleted as deleted:
                    yield page, deleted
        finally:
            for _, call in running:
                call.cancel()

    def all_events(
        self, start: Position, selection: Selection, *, size: int, timeout_s: float
    ) -> Iterator[Recorded]:
        """At most `size` events in commit order, the one at `start` included, that the server's filter lets pass."""
        return self._events(self._read(all_request(start, selection, size=size), timeout_s))

    def last(self, *, timeout_s: float) -> Recorded | None:
        """The last event of the store."""
        return self._one(all_request(None, Selection(), backwards=True, size=1), timeout_s)

    def end(self, *, timeout_s: float) -> Position:
        """The position of the last record, also of the server's own streams. It is never before the last event."""
        last = self._one(all_request(None, None, backwards=True, size=1), timeout_s)
        return last.position if last else BEGINNING

    def record_at(self, start: Position, *, timeout_s: float) -> Recorded | None:
        """The first record at a position or after it, also of the server's own streams.

        Raises what `NO_RECORD` lists if the position is not the beginning of a record.
        """
        return self._one(all_request(start, None, size=1), timeout_s)

    def subscribe(self, after: Position, selection: Selection) -> Iterator[ReadResponse]:
        """The messages of a subscription: its confirmation, events after a position, live ones, checkpoints and more.

        The iteration has no deadline.
        """
        return self._messages(self._read(subscribe_request(after, selection), None))

    def _one(self, request: ReadRequest, timeout_s: float) -> Recorded | None:
        found = list(self._events(self._read(request, timeout_s)))
        return found[0] if found else None

    def _read(self, request: ReadRequest, timeout_s: float | None) -> Any:
        return self._call(self.streams._stub.Read, request, timeout_s=timeout_s)

    def _call(self, rpc: Any, request: Any, *, timeout_s: float | None) -> Any:
        """Start a call to the leader."""
        return rpc(request, timeout=timeout_s, metadata=self._of_a_call(), credentials=self._call_credentials)

    def _duplex(self, rpc: Any) -> DuplexCall:
        return DuplexCall(rpc, metadata=self._of_a_call(), credentials=self._call_credentials)

    def _of_a_call(self) -> Any:
        return self.streams._metadata(self._call_metadata, requires_leader=True)

    def _events(self, call: Any) -> Iterator[Recorded]:
        for message in self._messages(call):
            if message.WhichOneof("content") == "event":
                yield recorded(message.event)

    def _messages(self, call: Any) -> Iterator[ReadResponse]:
        """The messages of a read. An iteration that is not finished cancels the call."""
        try:
            yield from call
        except grpc.RpcError as error:
            is_deleted = error.code() == grpc.StatusCode.FAILED_PRECONDITION and "is deleted" in (
                error.details() or ""
            )
            raise failures.StreamIsDeleted() if is_deleted else handle_rpc_error(error) from None
        finally:
            call.cancel()

    # --- corrections of esdbclient -----------------------------------------------------------

    def _discover_preferred_node(self) -> ESDBConnection:
        """Find the leader: ask every host in turn, each for its share of the time that is left.

        esdbclient accepts the first answer, even of a host that is cut off and knows no leader. It gives every
        host the same time, so that silent hosts add up.
        """
        failed: list[Exception] = []
        targets = self._url.targets
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
        options = self._url.options
        timeout_ms = options.keep_alive_timeout or _KEEPALIVE_MS
        working = (
            ("grpc.keepalive_time_ms", options.keep_alive_interval or _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", timeout_ms),
            ("grpc.http2.ping_timeout_ms", timeout_ms),
            ("grpc.http2.max_pings_without_data", 0),
            ("SingleThreadedUnaryStream", 0),  # a read is received by its own thread: a third less time
            ("grpc.use_local_subchannel_pool", 1),  # else a new client inherits the old one's back-off
        )
        return super()._construct_grpc_channel(grpc_target, (*grpc_options, *working))

    def construct_call_credentials(self, username: str | None, password: str | None) -> Any:
        """Decode user and password first: esdbclient sends %40 where the URL has to spell an @ that way."""
        return super().construct_call_credentials(unquote(username or ""), unquote(password or ""))
