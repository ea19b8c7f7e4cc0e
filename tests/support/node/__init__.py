"""The test node: the streams and gossip protocol of EventStoreDB on gRPC, for machines without a server.

Promise: what the protocol and the server's sources say about versions, idempotency, deletion, filters,
subscriptions and redirects, with faults where a test asks for them. Refusal: it keeps everything in memory,
knows nothing of its callers, and is no EventStoreDB: the contract suite also runs against a real one.
"""

from tests.support.node.faults import Fault, Plan, Point, once, seeded
from tests.support.node.log import Log
from tests.support.node.proxy import Proxy
from tests.support.node.server import Cluster, Node, Tls

__all__ = ["Cluster", "Fault", "Log", "Node", "Plan", "Point", "Proxy", "Tls", "once", "seeded"]
