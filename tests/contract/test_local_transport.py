"""What the local transport promises beyond the contract: sockets, strangers, killed servers."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from adapters.local.address import is_served, listen, socket_path
from adapters.local.caller import LocalCaller
from adapters.local.frames import MAX_FRAME_BYTES
from adapters.local.server import LocalServer
from adapters.settings import Settings, load_settings
from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import Reply, Request
from domain.kernel.ports.transport import Caller
from tests.support.processes import start_python
from tests.support.scripted import ROLE, SHORT_S, Clock, Serve, echo, numbers, questions
from tests.support.waiting import DEADLINE_S, eventually


@pytest.fixture
def broker_settings(home: Path) -> Settings:
    return load_settings(environment={"ES_HOME": str(home)})


_SERVER_PROCESS = """
import sys
from pathlib import Path
from adapters.local.server import LocalServer
from adapters.local.address import listen, socket_path
server = LocalServer(listen(socket_path(Path(sys.argv[1]), "echo")))
print("ready", flush=True)
answered, limit = 0, int(sys.argv[2])
while True:
    batch = server.receive(16, 1.0)
    if answered < limit:
        server.answer([(delivery, delivery.request.body) for delivery in batch])
        answered += len(batch)
        if answered >= limit:
            print("enough", flush=True)  # from here on it reads and is silent
"""


@contextlib.contextmanager
def server_process(run: Path, *, limit: int = 1 << 30) -> Iterator[Any]:
    process = start_python(_SERVER_PROCESS, str(run), str(limit))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_S)


def test_after_a_server_was_killed_everything_unanswered_is_asked_again(
    broker_settings: Settings, caller: Caller
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with server_process(broker_settings.run, limit=700) as first:
            asking = pool.submit(
                lambda: numbers(caller.pipeline(ROLE, iter(questions(2000)), timeout_s=DEADLINE_S))
            )
            assert first.stdout.readline() == "enough\n"
        with server_process(broker_settings.run):
            assert asking.result(DEADLINE_S) == list(range(2000))


def test_a_question_is_asked_again_when_its_connection_is_lost(
    broker_settings: Settings, caller: Caller
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with server_process(broker_settings.run, limit=1) as first:
            assert caller.ask(ROLE, "echo", {"n": 0}) == {"n": 0}
            assert first.stdout.readline() == "enough\n"
            asking = pool.submit(caller.ask, ROLE, "echo", {"n": 1}, timeout_s=DEADLINE_S)
            with pytest.raises(TimeoutError):  # it was read, and nothing is said
                asking.result(SHORT_S)
        with server_process(broker_settings.run):
            assert asking.result(DEADLINE_S) == {"n": 1}


def test_a_caller_finds_a_server_that_was_started_anew(broker_settings: Settings, caller: Caller) -> None:
    for number in range(3):
        with server_process(broker_settings.run):
            assert caller.ask(ROLE, "echo", {"n": number}) == {"n": number}


def test_a_server_that_does_not_come_back_is_unavailable_when_the_time_is_up(
    broker_settings: Settings, caller: Caller
) -> None:
    with server_process(broker_settings.run):
        assert caller.ask(ROLE, "echo", {"n": 0}) == {"n": 0}

    replies = list(caller.pipeline(ROLE, questions(3), timeout_s=SHORT_S))

    assert numbers(replies) == ["PartUnavailable"] * 3


def test_the_time_of_a_question_does_not_run_while_its_reader_is_slow(
    serve_by: Serve, caller: Caller, clock: Clock
) -> None:
    # Nothing is sent or received but while somebody waits for an answer.
    serve_by(echo)
    answers: list[Any] = []

    for reply in caller.pipeline(ROLE, questions(20), window=2, timeout_s=SHORT_S):
        answers += numbers([reply])
        clock.let_pass(SHORT_S * 2)

    assert answers == list(range(20))


# --- local: connections ----------------------------------------------------------------------


@pytest.fixture
def run(broker_settings: Settings) -> Path:
    return broker_settings.run


@pytest.fixture
def path(run: Path) -> Path:
    return socket_path(run, ROLE)


class _CountingListener(socket.socket):
    accepted = 0

    def accept(self) -> tuple[socket.socket, Any]:
        connection = super().accept()
        self.accepted += 1
        return connection


@contextlib.contextmanager
def answering(server: LocalServer) -> Iterator[LocalServer]:
    """Echoes in a thread, without a worker's loop around it."""
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            server.answer([(d, echo(d.request)) for d in server.receive(64, 0.01)])

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run)
        try:
            yield server
        finally:
            done.set()
            ended.result(DEADLINE_S)
            server.close()


@pytest.mark.parametrize("how", ["one by one", "in pipelines"])
def test_a_caller_keeps_its_connection(run: Path, path: Path, how: str) -> None:
    listener = listen(path)
    counting = _CountingListener(fileno=listener.detach())
    with answering(LocalServer(counting)), closing(LocalCaller(run)) as caller:
        for number in range(5):
            if how == "one by one":
                assert caller.ask(ROLE, "echo", {"n": number}) == {"n": number}
            else:
                assert numbers(caller.pipeline(ROLE, iter(questions(3)))) == [0, 1, 2]

        assert counting.accepted == 1


def test_whoever_finds_nobody_may_start_somebody_once(run: Path, path: Path) -> None:
    started: list[LocalServer] = []

    def start() -> bool:
        started.append(LocalServer(listen(path)))
        return True

    with closing(LocalCaller(run, on_absent=start)) as caller, ThreadPoolExecutor(1) as pool:
        asking = pool.submit(caller.ask, ROLE, "echo", {"n": 1}, timeout_s=DEADLINE_S)
        eventually(lambda: bool(started), "it was started")
        with answering(started[0]):
            assert asking.result(DEADLINE_S) == {"n": 1}
        path.unlink()

        with pytest.raises(PartUnavailable):
            caller.ask(ROLE, "echo", {"n": 2}, timeout_s=SHORT_S)

    assert len(started) == 1, "who stopped the worker meanwhile meant it"


def test_whoever_starts_nobody_is_told_at_once(run: Path) -> None:
    with (
        closing(LocalCaller(run, on_absent=lambda: False)) as caller,
        pytest.raises(PartUnavailable) as refused,
    ):
        caller.ask(ROLE, "echo", {}, timeout_s=DEADLINE_S)

    assert "not running" in str(refused.value)


def test_two_servers_accept_from_one_listening_socket(run: Path, path: Path) -> None:
    listener = listen(path)
    twin = socket.socket(fileno=os.dup(listener.fileno()))
    with answering(LocalServer(listener)), answering(LocalServer(twin)):
        callers = [LocalCaller(run) for _ in range(20)]
        assert [caller.ask(ROLE, "echo", {"n": i}) for i, caller in enumerate(callers)] == [
            {"n": i} for i in range(20)
        ]


# --- local: whose socket it is ---------------------------------------------------------------


def test_a_socket_and_its_folder_are_for_their_owner_alone(run: Path, path: Path) -> None:
    before = os.umask(0)  # even where the user gives everything away
    try:
        with closing(listen(path)):
            modes = [stat.S_IMODE(place.stat().st_mode) for place in (path, run)]
    finally:
        os.umask(before)

    assert modes == [0o600, 0o700]


def test_listening_leaves_the_mask_as_it_was(path: Path) -> None:
    before = os.umask(0o027)
    try:
        listen(path).close()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


@pytest.mark.parametrize("what", ["writable by others", "writable by a group", "a link"])
def test_a_folder_that_is_not_private_is_refused(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "run"
    if what == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o702 if what == "writable by others" else 0o720)

    with pytest.raises(PartUnavailable, match="not a private folder"):
        listen(socket_path(folder, ROLE))

    assert not (folder / f"{ROLE}.sock").exists()


def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)

    with pytest.raises(PartUnavailable, match="not a private folder"):
        listen(socket_path(folder, ROLE))


def test_a_caller_does_not_talk_into_a_folder_that_others_can_write_to(run: Path, path: Path) -> None:
    # A long home has its sockets in a folder below /tmp, where anybody can be first: what is said there
    # are names and addresses of people.
    with answering(LocalServer(listen(path))), closing(LocalCaller(run)) as caller:
        run.chmod(0o777)
        try:
            with pytest.raises(PartUnavailable):
                caller.ask(ROLE, "echo", {"n": "a secret"}, timeout_s=DEADLINE_S)
        finally:
            run.chmod(0o700)


@pytest.mark.parametrize("length", [50, 99, 100, 101, 120, 200, 1000])
def test_a_run_folder_of_any_length_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    base = tmp_path / "h"
    while len(str(base)) < length:
        base = base / ("d" * min(length - len(str(base)), 60))
    run = base / "run"

    path = socket_path(run, ROLE)

    assert len(os.fsencode(path)) <= 100
    assert path == socket_path(run, ROLE)
    assert path != socket_path(base / "other" / "run", ROLE)
    with answering(LocalServer(listen(path))), closing(LocalCaller(run)) as caller:
        assert caller.ask(ROLE, "echo", {"n": 1}) == {"n": 1}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_long_run_folder_is_one_place_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    real = tmp_path / ("d" * 120)
    real.mkdir()
    link = tmp_path / ("l" * 120)
    link.symlink_to(real)

    assert socket_path(link / "run", ROLE) == socket_path(real / "run", ROLE)


def test_a_socket_left_by_a_dead_process_is_replaced(run: Path, path: Path) -> None:
    listen(path).close()
    assert path.exists()
    assert not is_served(path)

    with answering(LocalServer(listen(path))), closing(LocalCaller(run)) as caller:
        assert is_served(path)
        assert caller.ask(ROLE, "echo", {"n": 1}) == {"n": 1}


# --- local: what strangers send --------------------------------------------------------------


def _frame(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack(">I", len(raw)) + raw


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(DEADLINE_S)
    connection.connect(str(path))
    return connection


def _read_frame(connection: socket.socket) -> Any:
    (length,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
    return json.loads(connection.recv(length, socket.MSG_WAITALL))


_GARBAGE: Mapping[str, bytes] = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a length beyond the limit": struct.pack(">I", MAX_FRAME_BYTES + 1),
    "the largest length": b"\xff\xff\xff\xff",
    "no JSON": _frame("{"),
    "nothing in a frame": _frame(""),
    "no object": _frame("[1]"),
    "no text": _frame(b"\xff\xfe\xfd"),
    "deep nesting": _frame("[" * 100_000),
    "a deeply nested object": _frame('{"id":1,"body":' * 50_000),
    "an endless number": _frame('{"id":' + "1" * 100_000 + "}"),
}


@pytest.mark.parametrize("garbage", _GARBAGE)
def test_garbage_ends_its_connection_and_harms_nobody(
    serve_by: Serve, caller: Caller, path: Path, garbage: str
) -> None:
    serve_by(echo)
    assert caller.ask(ROLE, "echo", {"n": 0}) == {"n": 0}

    with _connected(path) as stranger:
        stranger.sendall(_GARBAGE[garbage])
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b"", "hung up on"

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
def test_an_odd_request_is_answered_like_any_other(serve_by: Serve, path: Path, odd: str) -> None:
    serve_by(lambda request: {"kind": request.kind, "body": request.body})

    with _connected(path) as stranger:
        stranger.sendall(_frame(odd))
        answer = _read_frame(stranger)

    assert answer["id"] == 1
    assert answer["ok"]["body"] == {}


@pytest.mark.parametrize("id_", ["null", '"text"', "[1,[2]]", '{"a":1}', "1e400", "-0", "9" * 1000])
def test_an_id_is_given_back_whatever_it_is(serve_by: Serve, path: Path, id_: str) -> None:
    serve_by(echo)

    with _connected(path) as stranger:
        stranger.sendall(_frame(f'{{"id":{id_},"kind":"echo","body":{{"n":1}}}}'))

        assert _read_frame(stranger) == {"id": json.loads(id_), "ok": {"n": 1}}


@pytest.mark.parametrize("sent", [b"\x00", b"\x00\x00\x10\x00", _frame('{"id":1,"kind":"echo"}')[:-1]])
def test_half_a_frame_holds_nobody_up(serve_by: Serve, caller: Caller, path: Path, sent: bytes) -> None:
    serving = serve_by(echo)

    with _connected(path) as stranger:
        stranger.sendall(sent)
        assert numbers(caller.pipeline(ROLE, questions(10))) == list(range(10))
    assert len(serving.service.seen) == 10


def test_a_frame_may_come_byte_by_byte(serve_by: Serve, path: Path) -> None:
    serve_by(echo)

    with _connected(path) as stranger:
        for byte in _frame('{"id":1,"kind":"echo","body":{"n":1}}') * 2:
            stranger.sendall(bytes([byte]))

        assert [_read_frame(stranger), _read_frame(stranger)] == [{"id": 1, "ok": {"n": 1}}] * 2


def test_a_connection_that_is_closed_after_its_question_harms_nobody(
    serve_by: Serve, caller: Caller, path: Path
) -> None:
    serve_by(echo)

    for number in range(50):
        with _connected(path) as stranger:
            stranger.sendall(_frame('{"id":1,"kind":"echo","body":{"n":1}}') * 10)
            if number % 2:
                stranger.shutdown(socket.SHUT_WR)

    assert numbers(caller.pipeline(ROLE, questions(10))) == list(range(10))


def test_whoever_does_not_read_answers_is_not_read_from_and_others_are_served(
    serve_by: Serve, caller: Caller, path: Path
) -> None:
    pad = "x" * 100_000
    serving = serve_by(
        lambda request: {"n": request.body["n"], "pad": pad if request.body["n"] == "greedy" else ""}
    )
    question = _frame('{"id":1,"kind":"echo","body":{"n":"greedy"}}')

    with _connected(path) as stranger:
        stranger.setblocking(False)
        sent = 0
        quiet_since_s = time.monotonic()
        while time.monotonic() - quiet_since_s < SHORT_S:  # until it takes no more
            with contextlib.suppress(BlockingIOError):
                sent += stranger.send(question * 100)
                quiet_since_s = time.monotonic()
            assert sent < 100 * len(question) * 20_000, "the worker reads and keeps without end"
        assert numbers(caller.pipeline(ROLE, questions(100))) == list(range(100))

    eventually(
        lambda: (
            numbers([caller.ask(ROLE, "echo", {"n": 1})]) == [1] and serving.service.batches[-1] == [{"n": 1}]
        ),
        "what the greedy one asked is dropped with it",
    )


def test_an_answer_for_somebody_who_left_harms_nobody(run: Path, path: Path) -> None:
    with closing(LocalServer(listen(path))) as server:
        with _connected(path) as stranger:
            stranger.sendall(_frame('{"id":1,"kind":"echo","body":{}}') * 3)
            deliveries = list(itertools.islice(_received(server), 3))
        eventually(lambda: server.receive(1, 0.01) == [] and server.is_gone(deliveries[0]), "noticed")

        server.answer([(delivery, {"n": 1}) for delivery in deliveries])

        with _connected(path) as another:
            another.sendall(_frame('{"id":2,"kind":"echo","body":{}}'))
            (delivery,) = itertools.islice(_received(server), 1)
            server.answer([(delivery, {"n": 2})])
            assert _read_frame(another) == {"id": 2, "ok": {"n": 2}}


def test_what_somebody_asked_who_left_is_not_begun(run: Path, path: Path) -> None:
    with closing(LocalServer(listen(path))) as server:
        with _connected(path) as stranger:
            stranger.sendall(_frame('{"id":1,"kind":"echo","body":{}}') * 50)
            (first,) = itertools.islice(_received(server), 1)
            assert not server.is_gone(first)
        more = server.receive(100, 0.01)
        eventually(lambda: bool(server.receive(100, 0.01) or server.is_gone(first)), "noticed")

        assert more == []
        assert server.is_gone(first)


def _received(server: LocalServer) -> Iterator[Any]:
    while True:
        yield from server.receive(1, 0.01)


_FEW_DESCRIPTORS = """
import resource, sys
from pathlib import Path
from adapters.local.server import LocalServer
from adapters.local.address import listen, socket_path
server = LocalServer(listen(socket_path(Path(sys.argv[1]), "echo")))
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
print("ready", flush=True)
while True:
    server.answer([(delivery, delivery.request.body) for delivery in server.receive(16, 0.1)])
"""


def test_more_connections_than_a_process_may_have_do_not_end_the_server(run: Path, path: Path) -> None:
    process = start_python(_FEW_DESCRIPTORS, str(run))
    crowd: list[socket.socket] = []
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with closing(LocalCaller(run)) as early:
            assert numbers(early.pipeline(ROLE, questions(2))) == [0, 1]
            crowd += [_connected(path) for _ in range(64)]
            assert numbers(early.pipeline(ROLE, questions(2))) == [0, 1], "who is here is served"
            for connection in crowd:
                connection.close()
            with closing(LocalCaller(run)) as late:
                assert numbers(late.pipeline(ROLE, questions(2))) == [0, 1], "and then others"
    finally:
        for connection in crowd:
            connection.close()
        process.kill()
        process.communicate(timeout=DEADLINE_S)


def test_a_server_that_stops_answers_everybody_who_is_here(serve_by: Serve, path: Path) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def answer(request: Request) -> Reply:
        busy.set()
        assert go_on.wait(DEADLINE_S)
        return echo(request)

    serving = serve_by(answer)
    with _connected(path) as asking:
        asking.sendall(
            b"".join(_frame(f'{{"id":{number},"kind":"echo","body":{{}}}}') for number in range(500))
        )
        assert busy.wait(DEADLINE_S)
        serving.begin_to_stop()
        go_on.set()
        assert [_read_frame(asking)["id"] for _ in range(500)] == list(range(500))
    serving.stop()
    assert len(serving.service.seen) == 500
