"""The bidirectional call of one thread: the names of gRPC that it uses, and what it does at the end of a call."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from adapters.eventstoredb.driver import STATUS_CODES, cygrpc, failed_call
from adapters.eventstoredb.duplex import DuplexCall
from tests.support.waiting import DEADLINE_S, eventually

ECHO = "/test.Echo/Talk"
METADATA = (("requires-leader", "true"),)


class Echo:
    """A server that sends each message back, until it gets one that says how to end."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, str]] = []
        self.ended: queue.SimpleQueue[bool] = queue.SimpleQueue()
        handler = grpc.stream_stream_rpc_method_handler(self._talk)
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Echo", {"Talk": handler}),)
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def _talk(self, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self.metadata.append(dict(context.invocation_metadata()))
        context.add_callback(lambda: self.ended.put(True))
        for message in messages:
            if message == b"end":
                return
            if message == b"abort":
                context.set_trailing_metadata((("leader-endpoint-port", "2114"),))
                context.abort(grpc.StatusCode.NOT_FOUND, "Leader info available")
            yield message

    def call(self) -> DuplexCall:
        rpc = self.channel.stream_stream(
            ECHO, request_serializer=str.encode, response_deserializer=bytes.decode
        )
        return DuplexCall(rpc, metadata=METADATA, credentials=None)

    def close(self) -> None:
        self.channel.close()
        self._server.stop(None)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


def test_the_names_of_grpc_that_are_not_public_exist() -> None:
    rpc = grpc.insecure_channel("127.0.0.1:1").stream_stream(ECHO)
    for name in (
        "_channel",
        "_context",
        "_method",
        "_registered_call_handle",
        "_request_serializer",
        "_response_deserializer",
    ):
        assert hasattr(rpc, name)
    assert callable(rpc._channel.segregated_call)
    assert {"operate", "cancel", "next_event"} <= {*dir(cygrpc.SegregatedCall)}
    assert STATUS_CODES[cygrpc.StatusCode.cancelled] is grpc.StatusCode.CANCELLED
    error = failed_call(grpc.StatusCode.CANCELLED, "words", ())
    assert isinstance(error, grpc.RpcError)
    assert isinstance(error, grpc.Call)


def test_messages_of_several_threads_go_out_once_and_in_the_order_of_each(echo: Echo) -> None:
    call, got = echo.call(), list[str]()

    def send(thread: int) -> None:
        for number in range(0, 300, 3):
            call.send([f"{thread}-{each}" for each in range(number, number + 3)])

    senders = [threading.Thread(target=send, args=(thread,)) for thread in range(3)]
    for sender in senders:
        sender.start()
    answers = iter(call)
    got += [next(answers) for _ in range(900)]
    for sender in senders:
        sender.join(DEADLINE_S)
    call.send(["end"])

    assert list(answers) == [], "a status of OK raises nothing"
    for thread in range(3):
        prefix = f"{thread}-"
        assert [each for each in got if each.startswith(prefix)] == [f"{thread}-{n}" for n in range(300)]
    assert echo.metadata[0]["requires-leader"] == "true"


def test_the_status_of_a_failed_call_is_raised_after_the_messages_before_it(echo: Echo) -> None:
    call = echo.call()
    call.send(["one", "abort", "two"])
    answers = iter(call)
    assert next(answers) == "one"

    with pytest.raises(grpc.RpcError) as raised:
        next(answers)

    assert (raised.value.code(), raised.value.details()) == (
        grpc.StatusCode.NOT_FOUND,
        "Leader info available",
    )
    assert ("leader-endpoint-port", "2114") in [tuple(each) for each in raised.value.trailing_metadata()]


def test_after_the_end_nothing_is_sent_and_a_cancellation_does_nothing(echo: Echo) -> None:
    call = echo.call()
    call.send(["end"])
    assert list(call) == []

    call.send(["late"])
    call.cancel()

    other = echo.call()
    other.send(["one", "end"])
    assert list(other) == ["one"], "gRPC is sound"


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_call_that_waits_ends_when_it_is_cancelled_or_its_channel_closes(echo: Echo, how: str) -> None:
    call, ends = echo.call(), queue.SimpleQueue[Any]()

    def receive() -> None:
        try:
            ends.put(list(call))
        except grpc.RpcError as error:
            ends.put(error)

    receiving = threading.Thread(target=receive, daemon=True)
    receiving.start()
    call.send(["one"])
    eventually(lambda: echo.metadata, "the call has reached the server")

    call.cancel() if how == "cancel" else echo.channel.close()

    error = ends.get(timeout=DEADLINE_S)
    assert error.code() is grpc.StatusCode.CANCELLED
    assert echo.ended.get(timeout=DEADLINE_S), "the server was told"
    receiving.join(DEADLINE_S)
    assert not receiving.is_alive()


def test_without_a_server_the_call_fails(echo: Echo) -> None:
    echo.close()
    channel = grpc.insecure_channel("127.0.0.1:1")
    call = DuplexCall(
        channel.stream_stream(ECHO, request_serializer=str.encode), metadata=METADATA, credentials=None
    )
    call.send(["one", "two"])

    with pytest.raises(grpc.RpcError) as raised:
        list(call)

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    channel.close()
