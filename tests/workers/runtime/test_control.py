"""What a worker reports to its supervisor and in a roll call, and how it notices the end of the supervisor."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from domain.kernel.errors import PartUnavailable
from domain.users.errors import EmailTaken
from tests.support.waiting import DEADLINE_S
from workers.runtime.control import Control

DOWN = PartUnavailable("vault", "PostgreSQL at db: connection refused", "Start it.")


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The supervisor's and the worker's end of the control socket."""
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    with ours:
        yield ours, theirs


@pytest.fixture
def supervisor(ends: tuple[socket.socket, socket.socket]) -> socket.socket:
    return ends[0]


@pytest.fixture
def control(ends: tuple[socket.socket, socket.socket]) -> Iterator[Control]:
    control = Control(ends[1].detach(), role="users", instance=2)
    yield control
    control.close()


def become_ready(control: Control) -> None:
    control.serving()
    control.opened()


def reports(supervisor: socket.socket) -> list[dict[str, Any]]:
    """What the worker reported, without the times of errors."""
    found = [json.loads(line) for line in supervisor.recv(1 << 20).splitlines()]
    for report in found:
        if report.get("error"):
            assert report["error"].pop("at") >= "2026"
    return found


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (become_ready, {"state": "ready", "error": None}),
        (lambda control: control.waits("replies", DOWN), {"state": "starting", "error": DOWN.to_wire()}),
        (lambda control: control.not_serving(DOWN), {"state": "waiting", "error": DOWN.to_wire()}),
        (lambda control: control.cannot_open(DOWN), {"state": "waiting", "error": DOWN.to_wire()}),
        (lambda control: control.fails(DOWN), {"state": "failing", "error": DOWN.to_wire()}),
        (
            lambda control: control.fails(RuntimeError("ada@example.com")),
            {"state": "failing", "error": {"code": "internal", "message": "RuntimeError"}},
        ),
    ],
    ids=["ready", "waits", "not-serving", "cannot-open", "fails", "a bug by its class"],
)
def test_a_state_is_reported_to_the_supervisor(
    supervisor: socket.socket, control: Control, step: Callable[[Control], None], expected: dict[str, Any]
) -> None:
    step(control)

    assert reports(supervisor)[-1] == expected


def test_the_same_error_is_not_reported_with_every_request(
    supervisor: socket.socket, control: Control
) -> None:
    other = PartUnavailable("event store", "it is down")
    for _ in range(1000):
        control.waits("replies", DOWN)
    control.waits("replies", other)

    errors = [report["error"] for report in reports(supervisor)]
    assert (errors[0], errors[-1]) == (DOWN.to_wire(), other.to_wire())
    assert len(errors) < 20


@pytest.mark.parametrize(
    ("fail", "recover"),
    [
        (lambda control: control.not_serving(DOWN), Control.serving),
        (lambda control: control.cannot_open(DOWN), Control.opened),
    ],
    ids=["broker", "part"],
)
def test_a_worker_is_ready_only_with_its_broker_and_its_parts(
    control: Control, fail: Callable[[Control], None], recover: Callable[[Control], None]
) -> None:
    states = [control.describe()["state"]]
    for step in (Control.serving, Control.opened, fail, recover):
        step(control)
        states.append(control.describe()["state"])

    assert states == ["starting", "starting", "ready", "waiting", "ready"]


def test_a_description_names_the_worker_its_state_and_its_last_error(control: Control) -> None:
    before = control.describe()
    become_ready(control)
    control.waits("replies", DOWN)
    after = control.describe()

    identity = {"role": "users", "instance": 2, "host": socket.gethostname(), "pid": os.getpid()}
    assert before.items() >= {**identity, "state": "starting", "last_error": None}.items()
    assert after.items() >= {**identity, "state": "ready"}.items()
    assert after["last_error"].items() >= DOWN.to_wire().items()
    assert after["last_error"]["at"] >= "2026"


def test_an_error_ends_when_its_source_works_again(supervisor: socket.socket, control: Control) -> None:
    become_ready(control)
    other = PartUnavailable("event store", "it is down")
    control.waits("projector", DOWN)
    control.replied(other)
    control.replied(None)
    assert control.describe()["last_error"].items() >= DOWN.to_wire().items()
    control.works("projector")

    errors = [report["error"] for report in reports(supervisor)]
    assert errors[-4:] == [DOWN.to_wire(), other.to_wire(), DOWN.to_wire(), None]
    assert control.describe()["last_error"] is None


def test_a_loop_that_runs_says_so_at_most_once_a_second(supervisor: socket.socket, control: Control) -> None:
    for _ in range(100):
        control.alive()

    assert reports(supervisor) == [{"state": "starting", "error": None}]


def test_a_supervisor_that_reads_nothing_stops_no_worker(supervisor: socket.socket, control: Control) -> None:
    become_ready(control)
    for number in range(5000):
        control.waits("projector", PartUnavailable("vault", f"attempt {number}"))
    assert control.describe()["last_error"]["message"].endswith("attempt 4999")

    supervisor.setblocking(False)
    with suppress(BlockingIOError):
        while supervisor.recv(1 << 20):
            pass
    control.works("projector")
    assert reports(supervisor)[-1] == {"state": "ready", "error": None}


def test_a_worker_notices_the_end_of_its_supervisor(supervisor: socket.socket, control: Control) -> None:
    assert not control.supervisor_ended

    supervisor.close()

    assert control.supervisor_ended
    become_ready(control)  # a report without a reader is no failure


def test_a_worker_in_the_foreground_reports_to_no_supervisor() -> None:
    control = Control(None, role="users", instance=1)

    become_ready(control)
    control.fails(EmailTaken())

    assert not control.supervisor_ended
