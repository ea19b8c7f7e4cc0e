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
from adapters.local.server import Delivery, LocalServer
from domain.kernel.errors import UnknownRequest
from domain.kernel.messages import MAX_MESSAGE_BYTES, Body
from domain.kernel.ports.transport import Caller
from tests.support.local import a_frame, connected, read_frame, received, server_process
from tests.support.transports import ROLE, SHORT_S, Gate, Serving, Transport, asked, background
from tests.support.waiting import assert_within, eventually

ECHO = a_frame('{"id":1,"kind":"echo","body":{"n":1}}')
LARGE: Body = {"pad": "x" * 900_000}
GARBAGE: Mapping[str, bytes] = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a length beyond the limit": struct.pack(">I", MAX_MESSAGE_BYTES + 1),
    "the largest length": b"\xff\xff\xff\xff",
    "no JSON": a_frame("{"),
    "nothing in a frame": a_frame(""),
    "no object": a_frame("[1]"),
    "no text": a_frame(b"\xff\xfe\xfd"),
    "deep nesting": a_frame("[" * 100_000),
    "a deeply nested object": a_frame('{"id":1,"body":' * 50_000),
    "a frame of exactly the limit with an id that fills it": a_frame(
        '{"id":"%s","kind":"x"}' % ("i" * (MAX_MESSAGE_BYTES - 20))
    ),
    "a deeply nested id": a_frame('{"id":' + "[" * 30 + "]" * 30 + ',"kind":"x"}'),
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


def test_a_frame_of_exactly_the_limit_is_answered(transport: Transport, path: Path) -> None:
    transport.serve(lambda request: UnknownRequest(request.kind))
    text = '{"id":1,"kind":"%s"}'
    frame = a_frame(text % ("x" * (MAX_MESSAGE_BYTES - len(text) + 2)))

    with connected(path) as client:
        for part in (
            frame[:-1],
            frame[-1:] + ECHO,
        ):  # the rest arrives when the server has read the first part
            client.sendall(part)
        answers = [read_frame(client), read_frame(client)]

    assert [answer["error"]["code"] for answer in answers] == ["unknown-request"] * 2


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


def served(
    server: LocalServer, path: Path, stack: ExitStack, count: int
) -> list[tuple[socket.socket, Delivery]]:
    """Clients with one request each, and their deliveries."""
    clients = []
    for _ in range(count):
        client = stack.enter_context(connected(path))
        client.sendall(ECHO)
        clients.append((client, next(received(server))))
    return clients


def test_a_client_with_too_many_unread_replies_is_served_again_when_it_reads(path: Path) -> None:
    with closing(LocalServer(listen(path))) as server, ExitStack() as stack:
        (greedy, first), (_, other) = served(server, path, stack, 2)
        greedy.sendall(ECHO * 6)
        more = list(itertools.islice(received(server), 6))
        greedy.sendall(ECHO)
        server.answer([(delivery, LARGE) for delivery in (first, *more)])

        assert (server.is_full(first), server.is_full(other)) == (True, False)
        assert server.receive(10, 0.05) == []
        with background(lambda: [read_frame(greedy) for _ in range(7)]) as reading:
            eventually(lambda: server.receive(10, 0.01), "its next request is received")
            eventually(lambda: server.receive(10, 0.01) or reading.done(), "it has read all")


@pytest.mark.parametrize("limit", ["_UNREAD_LIMIT_S", "_CROWDED_UNREAD_LIMIT_S"])
def test_a_client_that_reads_nothing_is_disconnected_in_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    if limit.startswith("_CROWDED"):
        monkeypatch.setattr("adapters.local.server._CROWDED_BYTES", 100_000)
    monkeypatch.setattr(f"adapters.local.server.{limit}", 0.01)
    with closing(LocalServer(listen(path))) as server, ExitStack() as stack:
        (_, silent), (_, idle) = served(server, path, stack, 2)
        server.answer([(silent, LARGE), (idle, {})])

        eventually(
            lambda: server.receive(10, 0.01) or server.is_gone(silent), "it is disconnected", within_s=30
        )
        assert not server.is_gone(idle)


def test_requests_without_a_reply_are_limited_for_each_client(path: Path) -> None:
    with closing(LocalServer(listen(path))) as server, ExitStack() as stack:
        greedy = stack.enter_context(connected(path))
        with background(lambda: greedy.sendall(ECHO * 20_000)):
            held = eventually(lambda: server.receive(256, 0.01), "the first are received")
            while batch := server.receive(256, SHORT_S):
                held += batch
            assert len(held) < 6000, "the others wait in the client"

            (_, other) = served(server, path, stack, 1)[0]
            assert other.request.body == {"n": 1}
            server.answer([(delivery, {}) for delivery in held])
            eventually(lambda: server.receive(256, 0.01), "the rest follows the replies")
            server.close()


def test_a_client_with_many_requests_leaves_room_in_a_batch(path: Path) -> None:
    with closing(LocalServer(listen(path))) as server, connected(path) as many, connected(path) as few:
        many.sendall(ECHO * 1000)
        few.sendall(a_frame('{"id":"few","kind":"echo","body":{}}'))
        first = eventually(lambda: server.receive(256, 0.01), "a batch is received")

        assert len(first) <= 256
        assert "few" in [delivery.frame_id for delivery in first][:2]


def test_a_stop_does_not_wait_for_each_client_that_reads_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.local.server._CLOSE_S", 0.1)

    def close_server() -> float:
        server = LocalServer(listen(path))
        with ExitStack() as stack:
            server.answer([(delivery, LARGE) for _, delivery in served(server, path, stack, 20)])
            began_s = time.monotonic()
            server.close()
            return time.monotonic() - began_s

    assert_within(1.0, close_server)


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
