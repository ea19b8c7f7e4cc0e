"""What the node and its tests use of the installed client library: its protobuf modules, and classes of its events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters.eventstoredb.driver import LIBRARY

if TYPE_CHECKING or LIBRARY == "esdbclient":
    from esdbclient import CaughtUp, Checkpoint, NewEvent, RecordedEvent, StreamState
    from esdbclient.protos.Grpc import (
        code_pb2,
        gossip_pb2,
        gossip_pb2_grpc,
        shared_pb2,
        status_pb2,
        streams_pb2,
        streams_pb2_grpc,
    )
else:
    from kurrentdbclient import CaughtUp, Checkpoint, NewEvent, RecordedEvent, StreamState
    from kurrentdbclient.protos.google.rpc import code_pb2
    from kurrentdbclient.protos.v1 import (
        gossip_pb2,
        gossip_pb2_grpc,
        shared_pb2,
        status_pb2,
        streams_pb2,
        streams_pb2_grpc,
    )

__all__ = [
    "CaughtUp",
    "Checkpoint",
    "NewEvent",
    "RecordedEvent",
    "StreamState",
    "code_pb2",
    "gossip_pb2",
    "gossip_pb2_grpc",
    "shared_pb2",
    "status_pb2",
    "streams_pb2",
    "streams_pb2_grpc",
]
