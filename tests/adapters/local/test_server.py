"""The local server against clients that send anything, read nothing, disconnect, or are too many."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from adapters.local.address import listen
from adapters.local.caller import LocalCaller
from adapters.local.frames import MAX_FRAME_BYTES
from adapters.local.server import LocalServer
from domain.kernel.ports.transport import Caller
from tests.support.local import a_frame, connected, read_frame, received, server_process
from tests.support.transports import ROLE, SHORT_S, Gate, Serving, Transport, asked
from tests.support.waiting import eventually

ECHO = a_frame('{"id":1,"kind":"echo","body":{"n":1}}')
GARBAGE: Mapping[str, bytes] = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a length beyond the limit": struct.pack(">I", MAX_FRAME_BYTES + 1),
    "the largest length": b"\xff\xff\xff\xff",
    "no JSON": a_frame("{"),
    "nothing in a frame": a_frame(""),
    "no object": a_frame("[1]"),
    "no text": a_frame(b"\xff\xfe\xfd"),
    "deep nesting": a_frame("[" * 100_000),
    "a deeply nested object": a_frame('{"id":1,"body":' * 50_000),
    "an endless number": a_frame('{"id":' + "1" * 100_000 + "}"),
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_closes_its_connection_and_no_other(
    echoing: Serving, caller: Caller, path: Path, garbage: str
) -> None:
    assert caller.ask(ROLE, "echo", {"n": 0}) == {"n": 0}

    with connected(path) as client:
        client.sendall(GARBAGE[garbage])
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b"", "the server has closed the connection"

    assert caller.ask(ROLE, "echo", {"n": 1}) == {"n": 1}


@pytest.mark.parametrize(
    "odd",
    [
        '{"id":1}',
        '{"id":1,"kind":null,"body":[]}',
        '{"id":1,"kind":{"a":1},"body":7}',
        '{"id":1,"kind":"echo","body":{},"more":true}',
    ],
)
def test_an_odd_request_is_answered_like_any_other(transport: Transport, path: Path, odd: str) -> None:
    transport.serve(lambda request: {"kind": request.kind, "body": request.body})

    with connected(path) as client:
        client.sendall(a_frame(odd))
        answer = read_frame(client)

    assert answer["id"] == 1
    assert answer["ok"]["body"] == {}


@pytest.mark.parametrize("id_", ["null", '"text"', "[1,[2]]", '{"a":1}', "1e400", "-0", "9" * 1000])
def test_an_id_of_any_type_is_returned(echoing: Serving, path: Path, id_: str) -> None:
    with connected(path) as client:
        client.sendall(a_frame(f'{{"id":{id_},"kind":"echo","body":{{"n":1}}}}'))

        assert read_frame(client) == {"id": json.loads(id_), "ok": {"n": 1}}


@pytest.mark.parametrize("sent", [b"\x00", b"\x00\x00\x10\x00", a_frame('{"id":1,"kind":"echo"}')[:-1]])
def test_half_a_frame_delays_no_other_client(
    echoing: Serving, caller: Caller, path: Path, sent: bytes
) -> None:
    with connected(path) as client:
        client.sendall(sent)
        assert asked(caller, 10) == list(range(10))
    assert len(echoing.service.seen) == 10


def test_a_frame_may_arrive_byte_by_byte(echoing: Serving, path: Path) -> None:
    with connected(path) as client:
        for byte in ECHO * 2:
            client.sendall(bytes([byte]))

        assert [read_frame(client), read_frame(client)] == [{"id": 1, "ok": {"n": 1}}] * 2


def test_clients_that_disconnect_after_their_requests_disturb_no_other(
    echoing: Serving, caller: Caller, path: Path
) -> None:
    for number in range(50):
        with connected(path) as client:
            client.sendall(ECHO * 10)
            if number % 2:
                client.shutdown(socket.SHUT_WR)

    assert asked(caller, 10) == list(range(10))


def test_a_client_that_reads_no_replies_is_not_read_from_and_delays_no_other(
    transport: Transport, caller: Caller, path: Path
) -> None:
    pad = "x" * 100_000
    serving = transport.serve(
        lambda request: {"n": request.body["n"], "pad": pad if request.body["n"] == "greedy" else ""}
    )
    request = a_frame('{"id":1,"kind":"echo","body":{"n":"greedy"}}')

    with connected(path) as client:
        client.setblocking(False)
        sent = 0
        quiet_since_s = time.monotonic()
        while time.monotonic() - quiet_since_s < SHORT_S:  # until the server reads no more
            with contextlib.suppress(BlockingIOError):
                sent += client.send(request * 100)
                quiet_since_s = time.monotonic()
            assert sent < 100 * len(request) * 20_000, "the server reads and buffers without a limit"
        assert asked(caller, 100) == list(range(100))

    def is_dropped() -> bool:
        return caller.ask(ROLE, "echo", {"n": 1})["n"] == 1 and serving.service.batches[-1] == [{"n": 1}]

    eventually(is_dropped, "its requests are dropped when it disconnects")


def test_replies_to_a_disconnected_client_disturb_no_other(run: Path, path: Path) -> None:
    with closing(LocalServer(listen(path))) as server:
        with connected(path) as client:
            client.sendall(ECHO * 3)
            deliveries = list(itertools.islice(received(server), 3))
        eventually(lambda: server.receive(1, 0.01) == [] and server.is_gone(deliveries[0]), "noticed")

        server.answer([(delivery, {"n": 1}) for delivery in deliveries])

        with connected(path) as another:
            another.sendall(a_frame('{"id":2,"kind":"echo","body":{}}'))
            server.answer([(next(received(server)), {"n": 2})])
            assert read_frame(another) == {"id": 2, "ok": {"n": 2}}


def test_requests_of_a_disconnected_client_are_not_begun(run: Path, path: Path) -> None:
    with closing(LocalServer(listen(path))) as server:
        with connected(path) as client:
            client.sendall(ECHO * 50)
            first = next(received(server))
            assert not server.is_gone(first)
        more = server.receive(100, 0.01)
        eventually(lambda: bool(server.receive(100, 0.01) or server.is_gone(first)), "noticed")

        assert more == []
        assert server.is_gone(first)


def test_more_connections_than_files_do_not_end_the_server(run: Path, path: Path) -> None:
    with server_process(run, files=32), ExitStack() as crowd, closing(LocalCaller(run)) as early:
        assert asked(early, 2) == [0, 1]
        for _ in range(64):
            crowd.enter_context(connected(path))
        assert asked(early, 2) == [0, 1], "earlier callers are served"
        crowd.close()
        with closing(LocalCaller(run)) as late:
            assert asked(late, 2) == [0, 1], "and later ones after that"


def test_a_server_that_stops_answers_every_connected_client(transport: Transport, path: Path) -> None:
    gate = Gate()
    serving = transport.serve(gate)
    with connected(path) as client:
        frames = [a_frame(f'{{"id":{number},"kind":"echo","body":{{}}}}') for number in range(500)]
        client.sendall(b"".join(frames))
        gate.wait_until_busy()
        serving.begin_to_stop()
        gate.open()
        assert [read_frame(client)["id"] for _ in range(500)] == list(range(500))
    serving.stop()
    assert len(serving.service.seen) == 500
