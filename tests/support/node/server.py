"""Test nodes that listen: one, or a cluster over one log of which one node leads."""

from __future__ import annotations

import base64
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from esdbclient.protos.Grpc import gossip_pb2, gossip_pb2_grpc, streams_pb2_grpc

from tests.support.node import faults
from tests.support.node.faults import Plan
from tests.support.node.log import Log
from tests.support.node.streams import Streams

HOST = "127.0.0.1"
_CALLS_AT_ONCE = 100
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024 - 10_000),  # the server's, TFConsts
    # As the server: pings are welcome at any rate.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)
_State = gossip_pb2.MemberInfo.VNodeState


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM texts. With `client_ca`, clients have to show a certificate."""

    key: bytes
    certificate: bytes
    client_ca: bytes | None = None


class Node:
    """Listens until `stop`. Close its clients first: gRPC can't take a server from clients of its own process.

    Set `is_down` to have every call fail as if nobody were there, and `is_cut_off` to have it know no other
    node of its cluster, and no leader.
    """

    def __init__(
        self, *, port: int = 0, log: Log | None = None, tls: Tls | None = None, user: str | None = None
    ) -> None:
        """`user` is `name:password`; without it everybody may do everything."""
        self.log = log or Log()
        self.plan: Plan = faults.none
        self.cluster: Cluster | None = None
        self.is_down = False
        self.is_cut_off = False
        self.is_running = True
        self.calls = Counter[str]()
        """How many calls came in, by the name of the RPC, admitted or not."""
        self.methods: set[str] = set()
        """Every RPC that was called, also one that isn't served here, such as `streams.Streams/Read`."""
        self.forgets_its_place = False
        """A filtered subscription that goes live before anything has matched sends a checkpoint at 2^64-1, as the
        server does from 24.2 to 24.10.4."""
        self.max_append_size = 1024 * 1024  # the server's default
        self.max_event_size: int | None = None
        """Of one event; servers know such a limit from 24.10.4 on."""
        self.deadlines_s: list[float] = []
        """Within what time the items of batches asked to be done, in the order in which they came."""
        self.late_s = 0.3
        self.late: list[threading.Timer] = []
        """Commits that were, or will be, made after their caller gave up."""
        self._user = user
        server = grpc.server(
            ThreadPoolExecutor(_CALLS_AT_ONCE), options=_OPTIONS, interceptors=[_Noting(self.methods)]
        )
        streams_pb2_grpc.add_StreamsServicer_to_server(Streams(self), server)
        gossip_pb2_grpc.add_GossipServicer_to_server(_Gossip(self), server)
        address = f"{HOST}:{port}"
        if tls is None:
            self.port: int = server.add_insecure_port(address)
        else:
            credentials = grpc.ssl_server_credentials(
                [(tls.key, tls.certificate)],
                root_certificates=tls.client_ca,
                require_client_auth=tls.client_ca is not None,
            )
            self.port = server.add_secure_port(address, credentials)
        self._server = server
        server.start()

    @property
    def url(self) -> str:
        return f"esdb://{HOST}:{self.port}?tls=false"

    def stop(self) -> None:
        """At once: calls that are under way are cancelled. The log goes with the node."""
        self.is_running = False
        self._server.stop(0).wait()

    def let_in(self, rpc: str, context: grpc.ServicerContext) -> None:
        """Turn away who isn't allowed in."""
        self.calls[rpc] += 1
        if self.is_down:
            context.abort(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")
        if self._user is not None:
            expected = b"Basic " + base64.b64encode(self._user.encode())
            if dict(context.invocation_metadata()).get("authorization") not in (expected, expected.decode()):
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "Unauthenticated")

    def admit(self, rpc: str, context: grpc.ServicerContext) -> None:
        """Turn away who isn't allowed in, and who needs the leader when this node isn't."""
        self.let_in(rpc, context)
        metadata = dict(context.invocation_metadata())
        if self.cluster is None or self.cluster.leader is self or metadata.get("requires-leader") != "true":
            return
        leader = self.cluster.leader
        context.set_trailing_metadata(
            (
                ("exception", "not-leader"),
                ("leader-endpoint-host", HOST),
                ("leader-endpoint-port", str(leader.port)),
            )
        )
        context.abort(grpc.StatusCode.NOT_FOUND, "Leader info available")


class Cluster:
    """Nodes over one log, as if it were replicated. Any of them can be told to lead."""

    def __init__(self, size: int = 3) -> None:
        log = Log()
        self.nodes = [Node(log=log) for _ in range(size)]
        self.leader = self.nodes[0]
        for node in self.nodes:
            node.cluster = self

    @property
    def url(self) -> str:
        return f"esdb://{','.join(f'{HOST}:{node.port}' for node in self.nodes)}?tls=false"

    def elect(self, leader: Node) -> None:
        self.leader = leader

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()


class _Noting(grpc.ServerInterceptor):
    def __init__(self, methods: set[str]) -> None:
        self._methods = methods

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        self._methods.add(details.method.removeprefix("/event_store.client."))
        return continuation(details)


class _Gossip(gossip_pb2_grpc.GossipServicer):
    def __init__(self, node: Node) -> None:
        self._node = node

    def Read(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._node.let_in("Gossip", context)
        cluster = self._node.cluster
        alone = cluster is None or self._node.is_cut_off
        nodes: Sequence[Node] = [self._node] if cluster is None or alone else cluster.nodes
        leader = self._node if cluster is None else None if alone else cluster.leader
        return gossip_pb2.ClusterInfo(
            members=[
                gossip_pb2.MemberInfo(
                    state=_State.Leader if node is leader else _State.Follower,
                    is_alive=not node.is_down,
                    http_end_point=gossip_pb2.EndPoint(address=HOST, port=node.port),
                )
                for node in nodes
            ]
        )
