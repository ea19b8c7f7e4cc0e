"""The `/info` page of a server, which `es doctor` shows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from adapters.clock import now_us
from adapters.eventstoredb.server_info import server_facts
from tests.support.node import Proxy


class _Info(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"esVersion":"23.10.7.0"}' if self.path == "/info" else b"{}")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def info_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Info) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_server_is_asked_for_its_version_without_a_proxy(
    info_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    version, ahead_us = server_facts(f"esdb://127.0.0.1:{info_port}?tls=false", now_us=now_us)

    assert (version, abs(ahead_us) < 1_000_000) == ((23, 10, 7, 0), True)


def test_the_next_host_is_asked_for_the_version_if_one_is_silent(info_port: int) -> None:
    with closing(Proxy(info_port)) as silent:
        silent.freeze()
        url = f"esdb://127.0.0.1:{silent.port},127.0.0.1:{info_port}?tls=false"

        assert server_facts(url, now_us=now_us)[0] == (23, 10, 7, 0)


@pytest.mark.parametrize("ca", [None, "", "junk"])
def test_an_unreadable_ca_hides_the_version_and_is_no_failure(tmp_path: Path, ca: str | None) -> None:
    path = tmp_path / "ca.pem"
    if ca is not None:
        path.write_text(ca)

    assert server_facts(f"esdb://a:b@127.0.0.1:1?tlsCaFile={path}", now_us=now_us) == (None, 0)
