"""The local transport for tests: a server in a process, and raw frames as any program may send them."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters.local.server import LocalServer
from tests.support.processes import start_python
from tests.support.waiting import DEADLINE_S

_SERVER = """
import resource, sys
from pathlib import Path
from adapters.local.server import LocalServer
from adapters.local.address import listen, socket_path
server = LocalServer(listen(socket_path(Path(sys.argv[1]), "echo")))
answered, limit, files = 0, int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
print("ready", flush=True)
while True:
    batch = server.receive(16, 0.1)
    if answered < limit:
        server.answer([(delivery, delivery.request.body) for delivery in batch])
        answered += len(batch)
        if answered >= limit:
            print("silent", flush=True)  # from here on it reads, but does not answer
"""


@contextmanager
def server_process(run: Path, *, limit: int = 1 << 30, files: int = 1024) -> Iterator[Any]:
    """A server that echoes in a process of its own. It answers `limit` requests and may open `files` files."""
    process = start_python(_SERVER, str(run), str(limit), str(files))
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_S)


def a_frame(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack(">I", len(raw)) + raw


def connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(DEADLINE_S)
    connection.connect(str(path))
    return connection


def read_frame(connection: socket.socket) -> Any:
    (length,) = struct.unpack(">I", _exactly(connection, 4))
    return json.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        chunk = connection.recv(count - len(found))
        assert chunk, "the server has closed the connection"
        found += chunk
    return found


def received(server: LocalServer) -> Iterator[Any]:
    """The deliveries of a server, for ever."""
    while True:
        yield from server.receive(1, 0.01)
