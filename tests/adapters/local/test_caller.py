"""The caller over local sockets: lost connections, workers that stop and start, slow readers."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from adapters.local.address import Listening, listen, socket_path
from adapters.local.caller import LocalCaller, ask_once
from adapters.local.server import LocalServer
from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.transport import Caller
from tests.support.local import server_process
from tests.support.system import new_root
from tests.support.transports import (
    ROLE,
    SHORT_S,
    Clock,
    Serving,
    Transport,
    background,
    numbers,
    questions,
)
from tests.support.waiting import DEADLINE_S, eventually


def test_unanswered_requests_are_sent_again_after_the_server_was_killed(run: Path, caller: Caller) -> None:
    def ask() -> list[Any]:
        return numbers(caller.pipeline(ROLE, iter(questions(2000)), timeout_s=DEADLINE_S))

    with server_process(run, limit=700) as first, background(ask) as asking:
        assert first.stdout.readline() == "silent\n"
        first.kill()
        with server_process(run):
            assert asking.result(DEADLINE_S) == list(range(2000))


def test_a_request_is_sent_again_when_its_connection_is_lost(run: Path, caller: Caller) -> None:
    with server_process(run, limit=1) as first:
        assert caller.ask(ROLE, "echo", {"n": 0}) == {"n": 0}
        assert first.stdout.readline() == "silent\n"
        with background(caller.ask, ROLE, "echo", {"n": 1}, timeout_s=DEADLINE_S) as asking:
            with pytest.raises(TimeoutError):  # the request was read, and no reply is sent
                asking.result(SHORT_S)
            first.kill()
            with server_process(run):
                assert asking.result(DEADLINE_S) == {"n": 1}


def test_a_caller_finds_a_server_that_was_restarted(run: Path, caller: Caller) -> None:
    for number in range(3):
        with server_process(run):
            assert caller.ask(ROLE, "echo", {"n": number}) == {"n": number}


def test_a_server_that_does_not_restart_is_unavailable_after_the_timeout(run: Path, caller: Caller) -> None:
    with server_process(run):
        assert caller.ask(ROLE, "echo", {"n": 0}) == {"n": 0}

    replies = list(caller.pipeline(ROLE, questions(3), timeout_s=SHORT_S))

    assert numbers(replies) == ["PartUnavailable"] * 3


def test_the_time_of_a_request_does_not_run_while_its_reader_is_slow(
    echoing: Serving, caller: Caller, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is sent or received while the reader does not wait for a reply.
    monkeypatch.setattr("adapters.pipeline.WINDOW", 2)
    answers: list[Any] = []

    for reply in caller.pipeline(ROLE, questions(20), timeout_s=SHORT_S):
        answers += numbers([reply])
        clock.let_pass(SHORT_S * 2)

    assert answers == list(range(20))


class CountingListener(socket.socket):
    accepted = 0

    def accept(self) -> tuple[socket.socket, Any]:
        connection = super().accept()
        self.accepted += 1
        return connection


@pytest.mark.parametrize("how", ["one by one", "in pipelines"])
def test_a_caller_keeps_its_connection(run: Path, path: Path, transport: Transport, how: str) -> None:
    counting = CountingListener(fileno=listen(path).detach())
    with transport.serving(LocalServer(counting)), closing(LocalCaller(run)) as caller:
        for number in range(5):
            if how == "one by one":
                assert caller.ask(ROLE, "echo", {"n": number}) == {"n": number}
            else:
                assert numbers(caller.pipeline(ROLE, iter(questions(3)))) == [0, 1, 2]

        assert counting.accepted == 1


def test_a_caller_that_finds_no_worker_may_start_one_once(
    run: Path, path: Path, transport: Transport
) -> None:
    started: list[LocalServer] = []

    def start() -> bool:
        started.append(LocalServer(listen(path)))
        return True

    with closing(LocalCaller(run, on_absent=start)) as caller:
        with background(caller.ask, ROLE, "echo", {"n": 1}, timeout_s=DEADLINE_S) as asking:
            eventually(lambda: bool(started), "it was started")
            with transport.serving(started[0]):
                assert asking.result(DEADLINE_S) == {"n": 1}
        path.unlink()

        with pytest.raises(PartUnavailable):
            caller.ask(ROLE, "echo", {"n": 2}, timeout_s=SHORT_S)

    assert len(started) == 1, "a worker that was stopped meanwhile is not restarted"


def test_a_caller_that_starts_no_worker_fails_at_once(run: Path) -> None:
    caller = LocalCaller(run, on_absent=lambda: False)

    with pytest.raises(PartUnavailable, match="not running"):
        caller.ask(ROLE, "echo", {}, timeout_s=DEADLINE_S)


def test_two_servers_accept_from_one_listening_socket(run: Path, path: Path, transport: Transport) -> None:
    listener = listen(path)
    twin = socket.socket(fileno=os.dup(listener.fileno()))
    with transport.serving(LocalServer(listener)), transport.serving(LocalServer(twin)):
        callers = [LocalCaller(run) for _ in range(20)]
        replies = [caller.ask(ROLE, "echo", {"n": number}) for number, caller in enumerate(callers)]
        assert numbers(replies) == list(range(20))


def test_a_request_that_meets_a_closing_socket_is_not_sent_again(run: Path) -> None:
    # `es status` beside `es down`: waiting for another supervisor would take until the deadline.
    def accept_and_close() -> None:
        with listener.accept()[0] as connection:
            listener.close()
            connection.recv(1)

    with (
        listen(socket_path(run, ROLE)) as listener,
        background(accept_and_close),
        pytest.raises(ConnectionError),
    ):
        ask_once(run, ROLE, "echo", {}, timeout_s=DEADLINE_S)


def test_a_caller_finds_sockets_that_move_while_it_waits(
    tmp_path: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / ("d" * 120) / "run"
    run.parent.mkdir()
    root = new_root()
    with ExitStack() as serving:
        serving.callback(shutil.rmtree, root)

        def start_elsewhere() -> bool:
            monkeypatch.setenv("XDG_RUNTIME_DIR", tempfile.mkdtemp(dir=root))
            serving.enter_context(transport.serving(LocalServer(Listening(run, ROLE).socket)))
            return True

        monkeypatch.setenv("XDG_RUNTIME_DIR", str(root))
        with closing(LocalCaller(run, on_absent=start_elsewhere)) as caller:
            assert caller.ask(ROLE, "echo", {"n": 1}, timeout_s=SHORT_S * 20) == {"n": 1}


def test_an_exchange_outlives_a_lost_connection(run: Path, caller: Caller) -> None:
    def ask() -> list[tuple[int, Any]]:
        return list(caller.exchange(ROLE, iter(questions(2000)), timeout_s=DEADLINE_S))

    with server_process(run, limit=700) as first, background(ask) as asking:
        assert first.stdout.readline() == "silent\n"
        first.kill()
        with server_process(run):
            arrived = asking.result(DEADLINE_S)

    assert sorted(number for number, _ in arrived) == list(range(2000)), "each number once"
    assert all(reply["n"] == number for number, reply in arrived)
