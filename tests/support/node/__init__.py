"""The test node: the streams and gossip protocol of EventStoreDB over gRPC, for machines without a server.

Promise: versions, idempotency, deletion, filters, subscriptions and redirects as the protocol and the server's
sources define them, and faults where a test plans them. Refusal: it keeps everything in memory and does not replace
a real server: the contract suite also runs against one.
"""

from tests.support.node.cluster import Cluster
from tests.support.node.faults import LOST_APPENDS, Fault, Plan, Point, always, delayed, never, once, seeded
from tests.support.node.front import Front
from tests.support.node.server import Node
from tests.support.proxy import Proxy

__all__ = [
    "LOST_APPENDS",
    "Cluster",
    "Fault",
    "Front",
    "Node",
    "Plan",
    "Point",
    "Proxy",
    "always",
    "delayed",
    "never",
    "once",
    "seeded",
]
