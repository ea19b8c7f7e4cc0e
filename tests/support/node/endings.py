"""How a call ends before its last message: by a planned fault, or by an error of the server."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NoReturn

from grpc import ServicerContext, StatusCode  # type: ignore[import-untyped]

from tests.support.node.faults import Fault, Point

if TYPE_CHECKING:
    from tests.support.node.server import Node

WAKE_S = 0.1


def is_ended_by_fault(node: Node, point: Point, stream: str, context: ServicerContext) -> bool:
    """Whether the call must end here without another message. A fault may also abort the call."""
    fault = node.plan(point, stream)
    if fault is Fault.BLACK_HOLE:
        await_the_end(node, context)
    elif fault is not None and fault is not Fault.ENDS:
        abort(fault, context)
    return fault is not None


def abort(fault: Fault, context: ServicerContext) -> NoReturn:
    if fault is Fault.BROKEN:
        context.abort(StatusCode.UNKNOWN, "Exception was thrown by handler.")
    context.abort(StatusCode.UNAVAILABLE, "Connection reset by peer")
    raise AssertionError("abort raises")


def abort_deleted(stream: str, context: ServicerContext) -> NoReturn:
    abort_precondition(f"Event stream '{stream}' is deleted.", context)


def abort_precondition(reason: str, context: ServicerContext) -> NoReturn:
    context.abort(StatusCode.FAILED_PRECONDITION, reason)
    raise AssertionError("abort raises")


def await_the_end(node: Node, context: ServicerContext) -> None:
    ended = threading.Event()
    if context.add_callback(ended.set):
        while not ended.wait(WAKE_S) and node.is_running:
            pass
