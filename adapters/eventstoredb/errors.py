"""Translate failures of esdbclient and gRPC into errors of the domain.

Promise: each error says what happened and what the operator can do, and whether a retry is useful. Refusal: no
text contains a URL, a password or personal data.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapters.eventstoredb.driver import failures, grpc, status_of
from domain.kernel.errors import Damaged, EsError, InvalidInput, PartUnavailable

PART = "EventStoreDB"

FAILURES = (failures.EventStoreDBClientException, grpc.RpcError, ValueError, OSError)
"""All that the client raises: ValueError for a closed channel, OSError for an unreadable certificate file."""

UNREACHABLE = (
    failures.ServiceUnavailable,
    failures.GrpcDeadlineExceeded,
    failures.DiscoveryFailed,
    grpc.RpcError,
)
"""Failures after which the next call would most likely fail too."""

_FINAL = ("PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_ARGUMENT", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED")
"""gRPC statuses that a retry does not change."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure as the domain's error.

    `retry`: the outcome is unknown, or may be another one next time. `reconnect`: do not use this connection again.
    """

    error: EsError
    retry: bool = False
    reconnect: bool = False


def fault_of(error: Exception, *, is_cluster: bool) -> Fault:
    """Translate a failure. `is_cluster`: a new connection may find another leader."""
    match error:
        case failures.NodeIsNotLeader():
            hint = (
                "List all nodes in `ES_STORE` (esdb://a,b,c), or use esdb+discover://, to follow the leader."
            )
            return Fault(
                PartUnavailable(PART, "the node is not the leader", hint), is_cluster, reconnect=True
            )
        case failures.StreamIsDeleted():
            return Fault(deleted())
        case failures.MaximumAppendSizeExceededError():
            return Fault(too_large())
        case failures.SSLError():
            return Fault(PartUnavailable(PART, "the TLS handshake failed", _TLS_HINT))
        case OSError():
            reason = f"a file that `ES_STORE` names cannot be read: {error.strerror}"
            return Fault(PartUnavailable(PART, reason, "Correct the path in `ES_STORE`."))
        case failures.AccessDeniedError() | failures.BadRequestError() | failures.InvalidTransactionError():
            return Fault(_rejected(type(error).__name__))
        case failures.DeadlineExceeded():
            return Fault(PartUnavailable(PART, "it did not answer in time"), retry=True)
        case failures.DiscoveryFailed(__cause__=Exception() as cause) if not _can_retry(cause, is_cluster):
            return fault_of(cause, is_cluster=is_cluster)
        case failures.DiscoveryFailed():
            return Fault(PartUnavailable(PART, "no leader was found"), retry=True, reconnect=True)
        case failures.ServiceUnavailable():
            return Fault(PartUnavailable(PART, "it cannot be reached"), retry=True, reconnect=True)
    if status_of(error) in _FINAL:
        # Of a cluster another node may answer: one that has just come back serves little more than gossip.
        return Fault(_rejected(status_of(error)), reconnect=is_cluster)
    return Fault(PartUnavailable(PART, f"it failed ({type(error).__name__})"), retry=True, reconnect=True)


_TLS_HINT = (
    "Name the CA in `ES_STORE` (tlsCaFile=…), and userCertFile and userKeyFile if the server requires a "
    "client certificate."
)


def deleted() -> Damaged:
    return Damaged(PART, "a stream was deleted permanently")


def too_large() -> InvalidInput:
    return InvalidInput("events", "are too large together for one append to EventStoreDB")


def _can_retry(error: Exception, is_cluster: bool) -> bool:
    return fault_of(error, is_cluster=is_cluster).retry


def _rejected(reason: str) -> PartUnavailable:
    hint = "Check the user and the password in `ES_STORE`, and the rights of the user."
    return PartUnavailable(PART, f"it rejected the call ({reason})", hint)
