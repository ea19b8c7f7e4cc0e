"""The stand-in for EventStoreDB in a container: the test node behind the server's port and health check.

It reads the server's settings EVENTSTORE_CLUSTER_SIZE, EVENTSTORE_GOSSIP_SEED and EVENTSTORE_NODE_HOST_ADVERTISE_AS.

Refusal: its cluster has one log in a folder that all nodes share, as if it were replicated, and counts no majority. The
node that holds the lock of the folder leads. The kernel releases the lock when its process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from esdbclient.protos.Grpc import gossip_pb2, gossip_pb2_grpc

from tests.support.containers.front import Front
from tests.support.containers.stored_log import CHUNK, StoredLog
from tests.support.node import Node

PORT = 2113
DATA = Path("/var/lib/eventstore")
SHARED = Path("/var/lib/stand-in")
"""The folder of a cluster's log. A test mounts it into every node."""
_State = gossip_pb2.MemberInfo.VNodeState


class Follower(gossip_pb2_grpc.GossipServicer):
    """Tells clients where the leader is, and serves nothing else."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._server = grpc.server(ThreadPoolExecutor(4))
        gossip_pb2_grpc.add_GossipServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.port = int(self._server.add_insecure_port("127.0.0.1:0"))
        self._server.start()

    def Read(self, request: Any, context: grpc.ServicerContext) -> Any:
        leader = (SHARED / "leader").read_text() if (SHARED / "leader").exists() else ""
        return gossip_pb2.ClusterInfo(
            members=[
                gossip_pb2.MemberInfo(
                    state=_State.Leader if name == leader else _State.Follower,
                    is_alive=True,
                    http_end_point=gossip_pb2.EndPoint(address=name, port=PORT),
                )
                for name in self._names
            ]
        )


def take_lead(name: str) -> None:
    """Wait until this node leads. The first leader brings what its own data folder holds."""
    lock = os.open(SHARED / "lock", os.O_RDWR | os.O_CREAT, 0o666)  # held until the process ends
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (SHARED / CHUNK).exists():
        for file in (CHUNK, "chaser.chk"):
            if (DATA / file).exists():
                (SHARED / file).write_bytes((DATA / file).read_bytes())
    (SHARED / "leader").write_text(name)


def lead(folder: Path, name: str) -> Node:
    return Node(log=StoredLog(folder), advertised=(name, PORT))


def main() -> None:
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    print("this is no EventStoreDB: it is a stand-in, the test node of es", file=sys.stderr, flush=True)
    name = os.environ.get("EVENTSTORE_NODE_HOST_ADVERTISE_AS", "eventstore")
    if os.environ.get("EVENTSTORE_CLUSTER_SIZE", "1") == "1":
        Front(PORT, lead(DATA, name).port)
        ending.wait()
    others = [seed.partition(":")[0] for seed in os.environ["EVENTSTORE_GOSSIP_SEED"].split(",")]
    front = Front(PORT, Follower([name, *others]).port)
    take_lead(name)
    front.forward_to(lead(SHARED, name).port)
    print(f"{name} leads", file=sys.stderr, flush=True)
    ending.wait()


if __name__ == "__main__":
    main()
