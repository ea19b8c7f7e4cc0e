"""Failures of the client as errors of the domain: which connection is used again."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.eventstoredb.driver import failures, grpc
from adapters.eventstoredb.errors import fault_of


class _Rejected(grpc.RpcError, grpc.Call):  # type: ignore[misc]
    """A test double of gRPC's error for a call that a server does not answer."""

    def code(self) -> Any:
        return grpc.StatusCode.UNIMPLEMENTED

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"only its code is asked for, not {name}")


_Rejected.__abstractmethods__ = frozenset()


@pytest.mark.parametrize("is_cluster", [True, False])
def test_after_a_rejected_call_another_node_of_a_cluster_is_asked(is_cluster: bool) -> None:
    """A node that has just come back serves little more than gossip, and may stay connected for ever."""
    fault = fault_of(failures.EventStoreDBClientException(_Rejected()), is_cluster=is_cluster)

    assert "UNIMPLEMENTED" in str(fault.error)
    assert not fault.retry
    assert fault.reconnect is is_cluster
