"""The client library: the only module that imports it, and gRPC.

Promise: the other modules use one set of names, whichever library is installed. Refusal: nothing is corrected here;
`client` does that.

kurrentdbclient is the successor of esdbclient, by the same author, with other names: exceptions end with Error, and the
options of a URL are in snake case. esdbclient has no gRPC for Python 3.14 and newer (docs/adr/0013).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import grpc  # type: ignore[import-untyped]
from grpc import _channel, _common
from grpc._cython import cygrpc  # type: ignore[import-untyped]

# An environment holds one of them, because they need different versions of gRPC.
LIBRARY = "kurrentdbclient" if find_spec("kurrentdbclient") else "esdbclient"

if TYPE_CHECKING or LIBRARY == "esdbclient":
    from esdbclient import EventStoreDBClient
    from esdbclient import exceptions as failures
    from esdbclient.common import handle_rpc_error
    from esdbclient.connection import ESDBConnection
    from esdbclient.connection_spec import ConnectionSpec
    from esdbclient.exceptions import DeadlineExceeded
    from esdbclient.protos.Grpc import shared_pb2, streams_pb2
    from esdbclient.streams import StreamsService

    NO_RECORD = (failures.UnknownError, failures.ExceptionThrownByHandler)
else:
    from kurrentdbclient import KurrentDBClient as EventStoreDBClient
    from kurrentdbclient import exceptions
    from kurrentdbclient.common import handle_rpc_error
    from kurrentdbclient.connection import KurrentDBConnection as ESDBConnection
    from kurrentdbclient.connection_spec import ConnectionSpec
    from kurrentdbclient.exceptions import DeadlineExceededError as DeadlineExceeded
    from kurrentdbclient.protos.v1 import shared_pb2, streams_pb2
    from kurrentdbclient.streams import StreamsService

    class _Failures:
        """The exceptions of kurrentdbclient under the names of esdbclient."""

        EventStoreDBClientException = exceptions.KurrentDBClientError

        def __getattr__(self, name: str) -> type[Exception]:
            return getattr(exceptions, f"{name}Error", None) or getattr(exceptions, name)

    failures = _Failures()
    NO_RECORD = (failures.UnknownError, failures.ExceptionThrownByHandler, failures.InvalidCommitPosition)

__all__ = [
    "LIBRARY",
    "NO_RECORD",
    "STATUS_CODES",
    "DeadlineExceeded",
    "ESDBConnection",
    "EventStoreDBClient",
    "Options",
    "StreamsService",
    "Url",
    "cygrpc",
    "failed_call",
    "failures",
    "grpc",
    "handle_rpc_error",
    "parse_url",
    "shared_pb2",
    "status_of",
    "streams_pb2",
]


STATUS_CODES = _common.CYGRPC_STATUS_CODE_TO_STATUS_CODE


def failed_call(code: Any, details: str, trailing_metadata: Any) -> Exception:
    """The error that gRPC raises for a call that ended with this status."""
    error: Exception = _channel._InactiveRpcError(
        _channel._RPCState((), (), trailing_metadata, code, details.encode())
    )
    return error


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a URL. Intervals and timeouts of the keepalive are in ms; None is the library's default."""

    tls: bool
    tls_verify_cert: bool
    tls_ca_file: str | None
    user_cert_file: str | None
    user_key_file: str | None
    node_preference: str
    connection_name: str
    keep_alive_interval: int | None
    keep_alive_timeout: int | None
    max_discover_attempts: int
    discovery_interval: int
    gossip_timeout: int


@dataclass(frozen=True, slots=True)
class Url:
    """The parts of a URL. A target is `host:port`."""

    uri: str
    scheme: str
    targets: tuple[str, ...]
    options: Options


def parse_url(url: str) -> Url:
    """The parts of a URL. Raises ValueError or AssertionError, whose texts may repeat the URL."""
    spec = ConnectionSpec(url)
    names = [field.name for field in fields(Options)]
    theirs = names if LIBRARY == "kurrentdbclient" else [name.title().replace("_", "") for name in names]
    options = Options(*(getattr(spec.options, name) for name in theirs))
    return Url(spec.uri, spec.scheme, tuple(spec.targets), options)


def status_of(error: BaseException) -> str:
    """The name of the gRPC status behind a failure; empty if there is none.

    esdbclient passes gRPC's error on as an argument; kurrentdbclient raises its own from it.
    """
    causes: tuple[Any, ...] = (*error.args[:1], error.__cause__, error.__context__)
    return next((str(cause.code().name) for cause in causes if isinstance(cause, grpc.Call)), "")
