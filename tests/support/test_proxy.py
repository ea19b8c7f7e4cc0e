"""The proxy delays each direction and counts what a client waits for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from tests.support.proxy import HOST, Proxy, proxied

ROUND_TRIP_S = 0.2


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it receives."""
    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield int(listener.getsockname()[1])


def serve(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=send_back, args=(connection,), daemon=True).start()


def send_back(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        while data := connection.recv(65536):
            connection.sendall(data)


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with closing(Proxy(echo, round_trip_s=ROUND_TRIP_S)) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port))


def ask(client: socket.socket, *requests: bytes) -> bytes:
    """Send the requests together and read their replies."""
    for request in requests:
        client.sendall(request)
    wanted = sum(map(len, requests))
    replies = b""
    while len(replies) < wanted:
        replies += client.recv(65536)
    return replies


def test_a_round_trip_takes_the_added_time_at_least(proxy: Proxy) -> None:
    with connect(proxy) as client:
        began_s = time.monotonic()
        assert ask(client, b"ping") == b"ping"
        assert time.monotonic() - began_s >= ROUND_TRIP_S


def test_requests_that_are_sent_together_are_one_turn(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert ask(client, *[b"%04d" % n for n in range(100)]) == b"".join(b"%04d" % n for n in range(100))
        assert proxy.turns == [1]


def test_the_parts_of_a_long_reply_are_one_turn(proxy: Proxy) -> None:
    with connect(proxy) as client:
        asking = bytes(300_000)
        assert ask(client, asking) == asking
        assert proxy.turns == [1]


def test_each_wait_for_a_reply_is_a_turn_of_its_connection(proxy: Proxy) -> None:
    with connect(proxy) as first, connect(proxy) as second:
        for _ in range(3):
            ask(first, b"ping")
        ask(second, b"ping")
        assert proxy.turns == [3, 1]


def test_a_large_transfer_arrives_whole(proxy: Proxy) -> None:
    sent = bytes(range(256)) * 4096
    with connect(proxy) as client:
        writing = threading.Thread(target=client.sendall, args=(sent,))
        writing.start()
        received = b""
        while len(received) < len(sent):
            received += client.recv(65536)
        writing.join()
    assert received == sent


def test_the_end_of_a_client_ends_its_connection_to_the_server(proxy: Proxy) -> None:
    with connect(proxy) as client:
        ask(client, b"ping")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


def test_a_proxy_accepts_after_its_server_was_unavailable() -> None:
    with socket.create_server((HOST, 0)) as unavailable:
        port = int(unavailable.getsockname()[1])
    with closing(Proxy(port)) as proxy:
        with connect(proxy) as refused:
            assert refused.recv(1) == b""
        with socket.create_server((HOST, port)) as listener, connect(proxy) as client:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"x")
                assert client.recv(1) == b"x"


@pytest.mark.parametrize(
    ("url", "through"),
    [
        ("amqp://guest:secret@localhost:5672/a", "amqp://guest:secret@{}/a"),
        ("postgresql://es@localhost/a?schema=b", "postgresql://es@{}/a?schema=b"),
        ("esdb://localhost:2113?tls=false", "esdb://{}?tls=false"),
    ],
)
def test_a_url_through_a_proxy_keeps_everything_but_the_address(url: str, through: str) -> None:
    proxy, found = proxied(url)
    with closing(proxy):
        assert found == through.format(f"{HOST}:{proxy.port}")
