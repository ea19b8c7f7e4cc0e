"""Test nodes that listen: a single one, or a cluster over one log with one leader."""

from __future__ import annotations

import base64
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc  # type: ignore[import-untyped]
from esdbclient.protos.Grpc import gossip_pb2, gossip_pb2_grpc, streams_pb2_grpc

from tests.support.node.faults import Plan, never
from tests.support.node.log import Log
from tests.support.node.proxy import HOST
from tests.support.node.streams import Streams

if TYPE_CHECKING:
    from tests.support.certificates import Identity

_CALLS_AT_ONCE = 100
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024 - 10_000),  # the server's, TFConsts
    # Like the server: pings are allowed at any rate.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)
_State = gossip_pb2.MemberInfo.VNodeState


class Node:
    """Listens until `close`. Close its clients first: gRPC hangs if both ends of a call are in one process.

    `is_unavailable` makes every call fail. `is_cut_off` makes the node know no other node and no leader.
    """

    def __init__(
        self,
        *,
        log: Log | None = None,
        tls: Identity | None = None,
        client_ca: Path | None = None,
        user: str = "",
    ) -> None:
        """With `client_ca` clients must present a certificate. `user` is `name:password`, or empty for any."""
        self.log = log or Log()
        self.plan: Plan = never
        self.cluster: Cluster | None = None
        self.is_unavailable = False
        self.is_cut_off = False
        self.is_running = True
        self.calls = Counter[str]()
        """The number of calls by the name of the RPC, rejected ones included."""
        self.methods: set[str] = set()
        """Every RPC that was called, for example `streams.Streams/Read`, unimplemented ones included."""
        self.has_checkpoint_bug = False
        """Whether a filtered subscription sends a checkpoint at 2^64-1 if it goes live before any event matched, as
        the server does from 24.2 to 24.10.4."""
        self.max_append_size = 1024 * 1024  # the server's default
        self.max_event_size: int | None = None
        """The limit for one event, which servers have from 24.10.4 on."""
        self.deadlines_s: list[float] = []
        """The deadlines of the items of batches, in the order in which they arrived."""
        self.late_s = 0.3
        self.late: list[threading.Timer] = []
        """Commits that happened, or will happen, after their caller gave up."""
        self._user = user
        self._server = grpc.server(
            ThreadPoolExecutor(_CALLS_AT_ONCE), options=_OPTIONS, interceptors=[_Recorder(self.methods)]
        )
        streams_pb2_grpc.add_StreamsServicer_to_server(Streams(self), self._server)  # type: ignore[no-untyped-call]
        gossip_pb2_grpc.add_GossipServicer_to_server(_Gossip(self), self._server)  # type: ignore[no-untyped-call]
        self.port = self._listen(tls, client_ca)
        self._server.start()

    def _listen(self, tls: Identity | None, client_ca: Path | None) -> int:
        if tls is None:
            return int(self._server.add_insecure_port(f"{HOST}:0"))
        pair, ca = (tls.key.read_bytes(), tls.certificate.read_bytes()), client_ca and client_ca.read_bytes()
        credentials = grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)
        return int(self._server.add_secure_port(f"{HOST}:0", credentials))

    @property
    def url(self) -> str:
        return f"esdb://{HOST}:{self.port}?tls=false"

    def close(self) -> None:
        """Stop at once: running calls are cancelled, and the log is lost."""
        self.is_running = False
        self._server.stop(0).wait()

    def restore(self, log: Log) -> None:
        """Go on with another log, such as an older copy of this one, as after a restart. Subscriptions end."""
        replaced, self.log = self.log, log
        replaced.notify()

    def await_late_commits(self) -> None:
        for timer in self.late:
            timer.join()

    def authenticate(self, rpc: str, context: grpc.ServicerContext) -> None:
        """Count the call, and abort it if the node is unavailable or the user is wrong."""
        self.calls[rpc] += 1
        if self.is_unavailable:
            context.abort(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")
        if self._user:
            expected = b"Basic " + base64.b64encode(self._user.encode())
            if dict(context.invocation_metadata()).get("authorization") not in (expected, expected.decode()):
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "Unauthenticated")

    def admit(self, rpc: str, context: grpc.ServicerContext) -> None:
        """Authenticate the call, and redirect it if it requires the leader and this node is a follower."""
        self.authenticate(rpc, context)
        metadata = dict(context.invocation_metadata())
        if self.cluster is None or self.cluster.leader is self or metadata.get("requires-leader") != "true":
            return
        where = (("leader-endpoint-host", HOST), ("leader-endpoint-port", str(self.cluster.leader.port)))
        context.set_trailing_metadata((("exception", "not-leader"), *where))
        context.abort(grpc.StatusCode.NOT_FOUND, "Leader info available")


class Cluster:
    """Nodes over one log, as if it were replicated. A test sets the leader."""

    def __init__(self, size: int = 3) -> None:
        log = Log()
        self.nodes = [Node(log=log) for _ in range(size)]
        self.leader = self.nodes[0]
        for node in self.nodes:
            node.cluster = self

    @property
    def url(self) -> str:
        return f"esdb://{','.join(f'{HOST}:{node.port}' for node in self.nodes)}?tls=false"

    def close(self) -> None:
        for node in self.nodes:
            node.close()


class _Recorder(grpc.ServerInterceptor):  # type: ignore[misc]
    """Adds the name of every called RPC to a set."""

    def __init__(self, methods: set[str]) -> None:
        self._methods = methods

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        self._methods.add(details.method.removeprefix("/event_store.client."))
        return continuation(details)


class _Gossip(gossip_pb2_grpc.GossipServicer):
    def __init__(self, node: Node) -> None:
        self._node = node

    def Read(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._node.authenticate("Gossip", context)
        cluster = self._node.cluster
        alone = cluster is None or self._node.is_cut_off
        nodes: Sequence[Node] = [self._node] if cluster is None or alone else cluster.nodes
        leader = self._node if cluster is None else None if alone else cluster.leader
        members = [
            gossip_pb2.MemberInfo(
                state=_State.Leader if node is leader else _State.Follower,
                is_alive=not node.is_unavailable,
                http_end_point=gossip_pb2.EndPoint(address=HOST, port=node.port),
            )
            for node in nodes
        ]
        return gossip_pb2.ClusterInfo(members=members)
