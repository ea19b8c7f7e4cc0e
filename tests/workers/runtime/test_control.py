"""What a worker tells its supervisor, and how it notices that the supervisor is gone."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.log import open_log
from domain.kernel.errors import EsError, PartUnavailable
from domain.users.errors import EmailTaken
from tests.support.builders import DEADLINE_S
from workers.runtime.control import Control
from workers.runtime.followers import Follower

DOWN = PartUnavailable("vault", "PostgreSQL at db: connection refused", "Start it.")


Line = tuple[socket.socket, Control]
"""The supervisor's end and the worker's."""


@pytest.fixture
def line() -> Iterator[Line]:
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    control = Control(theirs.detach(), role="users", instance=2)
    with ours:
        yield ours, control
    control.close()


@pytest.fixture
def supervisor(line: Line) -> socket.socket:
    return line[0]


@pytest.fixture
def control(line: Line) -> Control:
    return line[1]


def is_ready(control: Control) -> None:
    control.serving()
    control.opened()


def heard(supervisor: socket.socket) -> Any:
    return json.loads(supervisor.recv(65536))


@pytest.mark.parametrize(
    ("say", "expected"),
    [
        (lambda control: is_ready(control), {"state": "ready"}),
        (lambda control: control.waits(DOWN), {"error": DOWN.to_wire()}),
        (lambda control: control.away(DOWN), {"state": "waiting", "error": DOWN.to_wire()}),
        (lambda control: control.cannot_open(DOWN), {"state": "waiting", "error": DOWN.to_wire()}),
        (lambda control: control.fails(DOWN), {"state": "failing", "error": DOWN.to_wire()}),
    ],
    ids=["ready", "waits", "away", "cannot-open", "fails"],
)
def test_the_supervisor_hears_how_its_worker_is(
    supervisor: socket.socket, control: Control, say: Callable[[Control], None], expected: dict[str, Any]
) -> None:
    say(control)

    assert heard(supervisor) == expected


def test_of_a_bug_only_the_name_is_told(supervisor: socket.socket, control: Control) -> None:
    control.fails(RuntimeError("ada@example.com"))

    assert heard(supervisor)["error"] == {"code": "internal", "message": "RuntimeError"}


def test_a_worker_notices_that_its_supervisor_is_gone(supervisor: socket.socket, control: Control) -> None:
    assert not control.is_gone

    supervisor.close()

    assert control.is_gone
    is_ready(control)  # nobody to tell, and no failure


def test_in_the_foreground_nobody_is_told_and_nobody_is_missed() -> None:
    control = Control(None, role="users", instance=1)

    is_ready(control)
    control.fails(EmailTaken())

    assert not control.is_gone


def test_a_follower_tells_what_it_waits_for_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    outcomes: list[EsError | None] = [DOWN, DOWN, None]
    waited_for: list[EsError] = []

    def run(_: Callable[[], bool]) -> None:
        if (error := outcomes.pop(0)) is not None:
            raise error

    log = open_log(tmp_path.name, tmp_path / "log")
    Follower("f", run, stopping=threading.Event(), on_wait=waited_for.append, log=log).join()

    assert waited_for == [DOWN, DOWN]
    assert outcomes == []


@pytest.mark.parametrize(
    ("is_missing", "is_back"),
    [
        (lambda control: control.away(DOWN), Control.serving),
        (lambda control: control.cannot_open(DOWN), Control.opened),
    ],
    ids=["broker", "part"],
)
def test_a_worker_is_ready_only_with_its_broker_and_its_parts(
    control: Control, is_missing: Callable[[Control], None], is_back: Callable[[Control], None]
) -> None:
    states = [control.describe()["state"]]
    for step in (Control.serving, Control.opened, is_missing, is_back):
        step(control)
        states.append(control.describe()["state"])

    assert states == ["starting", "starting", "ready", "waiting", "ready"]


# --- how it is, for whoever asks -------------------------------------------------------------


def test_it_tells_who_it_is_and_how_it_is(control: Control) -> None:
    before = control.describe()
    is_ready(control)
    control.waits(DOWN)
    after = control.describe()

    identity = {"role": "users", "instance": 2, "host": socket.gethostname(), "pid": os.getpid()}
    assert before.items() >= {**identity, "state": "starting", "last_error": None}.items()
    assert after.items() >= {**identity, "state": "ready"}.items()
    assert after["last_error"].items() >= DOWN.to_wire().items()
    assert after["last_error"]["at"] >= "2026"


def test_the_same_trouble_is_not_told_with_every_request(supervisor: socket.socket, control: Control) -> None:
    other = PartUnavailable("event store", "it is down")
    for _ in range(1000):
        control.waits(DOWN)
    control.waits(other)

    heard_of = [json.loads(line)["error"] for line in supervisor.recv(1 << 20).splitlines()]
    assert heard_of[0] == DOWN.to_wire()
    assert heard_of[-1] == other.to_wire()
    assert len(heard_of) < 20
