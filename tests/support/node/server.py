"""A test node that listens, alone or as a member of a cluster."""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import grpc  # type: ignore[import-untyped]

from tests.support.node.faults import Plan, never
from tests.support.node.gossip import serve_gossip
from tests.support.node.log import Log, Page
from tests.support.node.roles import Role
from tests.support.node.streams import Streams
from tests.support.proxy import HOST

if TYPE_CHECKING:
    from tests.support.certificates import Identity
    from tests.support.node.cluster import Cluster

LIVE_BUFFER = 64
"""32 in the server's `liveEvents`, and 32 in its `_channel`."""
FLUSH_S = 0.001
EXAMINE_S = 15e-6
"""Listing streams by a filtered read of 100,000 events took about 1.5 s."""
_CALLS_AT_ONCE = 100
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024 - 10_000),  # the server's, TFConsts
    # Like the server: pings are allowed at any rate.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)


class Node:
    """Listens until `close`. Close its clients first: gRPC hangs if both ends of a call are in one process.

    `is_unavailable` makes every call fail. `is_cut_off` makes the node know no other node and no leader.
    """

    def __init__(
        self,
        *,
        log: Log | None = None,
        cluster: Cluster | None = None,
        tls: Identity | None = None,
        client_ca: Path | None = None,
        user: str = "",
        advertised: tuple[str, int] | None = None,
    ) -> None:
        """With `client_ca` clients must present a certificate. `user` is `name:password`, or empty for any.

        `advertised` is the host and port that gossip names, if clients reach the node by other ones than its own.
        """
        self.log = log or Log()
        self.plan: Plan = never
        self.cluster = cluster
        self.is_unavailable = False
        self.is_cut_off = False
        self.is_dead = False
        """Whether it also ends the calls that run."""
        self.is_running = True
        self.calls = Counter[str]()
        """The number of calls by the name of the RPC, rejected ones included."""
        self.methods: set[str] = set()
        """Every RPC that was called, for example `streams.Streams/Read`, unimplemented ones included."""
        self.says_caught_up = True
        """Whether a subscription says that it has caught up, as servers do from 23.10 on."""
        self.live_buffer = LIVE_BUFFER
        """The messages that a live subscription keeps for a client that does not take them."""
        self.falls_behind = False
        """Whether a client that is too slow catches up again, as with servers from 24.2 on, instead of being ended."""
        self.examined = 0
        """The records that reads and catch-ups have examined."""
        self.has_checkpoint_bug = False
        """Whether a filtered subscription sends a checkpoint at 2^64-1 if it goes live before any event matched, as
        the server does from 24.2 to 24.10.4."""
        self.flush_s = FLUSH_S
        """How long a write to the disk takes. Appends of a call that arrive meanwhile are committed together."""
        self.examine_s = EXAMINE_S
        """How long the server takes for a record that a filter leaves out."""
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
        self._server.add_generic_rpc_handlers((Streams(self).handlers(),))
        serve_gossip(self, self._server)
        self.port = self._listen(tls, client_ca)
        self.address = advertised or (HOST, self.port)
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

    def spend_on(self, page: Page) -> None:
        """Take as long as the server does for the records that a read examined in vain."""
        self.examined += page.examined
        pause_s = (page.examined - len(page.records)) * self.examine_s
        if pause_s > 0:
            time.sleep(pause_s)

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
        """Authenticate the call. Abort it during an election, and if it requires the leader and this node follows."""
        self.authenticate(rpc, context)
        match self.role(context):
            case Role.ELECTING:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Server Is Not Ready")
            case Role.FOLLOWER:
                self.redirect(context)

    def role(self, context: grpc.ServicerContext) -> Role:
        """What the node is for this call: a follower only where the call requires the leader."""
        if self.cluster is None or (leader := self.cluster.leading) is self:
            return Role.LEADER
        if leader is None:
            return Role.ELECTING
        requires_leader = dict(context.invocation_metadata()).get("requires-leader") == "true"
        return Role.FOLLOWER if requires_leader else Role.LEADER

    def redirect(self, context: grpc.ServicerContext) -> NoReturn:
        """End the call, and name the leader."""
        leader = self.cluster.leading if self.cluster else None
        if leader is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Server Is Not Ready")
            raise AssertionError("abort raises")
        where = (("leader-endpoint-host", HOST), ("leader-endpoint-port", str(leader.port)))
        context.set_trailing_metadata((("exception", "not-leader"), *where))
        context.abort(grpc.StatusCode.NOT_FOUND, "Leader info available")
        raise AssertionError("abort raises")

    def die(self) -> None:
        """End all calls and accept none, until `revive`."""
        self.is_dead = self.is_unavailable = True
        self.log.notify()

    def revive(self) -> None:
        self.is_dead = self.is_unavailable = False


class _Recorder(grpc.ServerInterceptor):  # type: ignore[misc]
    """Adds the name of every called RPC to a set."""

    def __init__(self, methods: set[str]) -> None:
        self._methods = methods

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        self._methods.add(details.method.removeprefix("/event_store.client."))
        return continuation(details)
