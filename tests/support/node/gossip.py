"""The gossip of a test node: which nodes there are, and which one leads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc  # type: ignore[import-untyped]

from tests.support.node.protos import gossip_pb2, gossip_pb2_grpc

if TYPE_CHECKING:
    from tests.support.node.server import Node

_State = gossip_pb2.MemberInfo.VNodeState


def serve_gossip(node: Node, server: grpc.Server) -> None:
    gossip_pb2_grpc.add_GossipServicer_to_server(_Gossip(node), server)  # type: ignore[no-untyped-call]


class _Gossip(gossip_pb2_grpc.GossipServicer):
    def __init__(self, node: Node) -> None:
        self._node = node

    def Read(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._node.authenticate("Gossip", context)
        cluster = self._node.cluster
        alone = cluster is None or self._node.is_cut_off
        nodes: Sequence[Node] = [self._node] if cluster is None or alone else cluster.nodes
        leader = self._node if cluster is None else None if alone else cluster.leading

        def state_of(node: Node) -> Any:
            if cluster is not None and cluster.leading is None:
                return _State.Unknown  # during an election
            return _State.Leader if node is leader else _State.Follower

        members = [
            gossip_pb2.MemberInfo(
                state=state_of(node),
                is_alive=not node.is_unavailable,
                http_end_point=gossip_pb2.EndPoint(address=node.address[0], port=node.address[1]),
            )
            for node in nodes
        ]
        return gossip_pb2.ClusterInfo(members=members)
