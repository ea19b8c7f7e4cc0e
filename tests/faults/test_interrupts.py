"""Ctrl-C during a command: every printed answer is settled, and the rest is safe to repeat."""

from __future__ import annotations

import json
import select
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from tests.support.people import command_ids, confirmed, errors, ndjson, people
from tests.support.processes import open_sockets
from tests.support.runs import Ran, finish
from tests.support.system import System
from tests.support.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="needs /proc to see what a process waits for"
)


def _interrupted(process: subprocess.Popen[bytes]) -> Ran:
    process.send_signal(signal.SIGINT)
    return finish(process).without_traceback()


def _has_asked(process: subprocess.Popen[bytes]) -> None:
    """Wait until a command has a socket open, so that it is past its start and has a request under way."""

    def asked() -> bool:
        with suppress(OSError):
            return bool(open_sockets(process.pid))
        return False

    eventually(lambda: asked() or process.poll() is not None, "the command has asked")


def test_a_first_interrupt_stops_reading_and_prints_all_answers(running: System) -> None:
    inputs = people(6000)
    with (running.root / "answers").open("wb") as answers:
        bulk = running.start("users", "create", "--from", "-", stdin=subprocess.PIPE, stdout=answers)
    printed_so_far = (running.root / "answers").read_bytes
    with ThreadPoolExecutor(1) as pool:
        # Without the last line, so that the bulk cannot end before the signal.
        feeding = pool.submit(_give, bulk, inputs[:-1])
        eventually(lambda: printed_so_far().count(b"\n") >= 100 or bulk.poll() is not None, "100 answers")
        bulk.send_signal(signal.SIGINT)
        assert bulk.wait(DEADLINE_S) == 130
        feeding.result(DEADLINE_S)
    assert bulk.stderr is not None
    said = bulk.stderr.read().decode()

    assert "interrupted" in said
    assert "Traceback" not in said
    answered = [json.loads(line) for line in printed_so_far().splitlines()]
    printed = confirmed(answered)
    assert 100 <= len(printed) < len(inputs)
    assert command_ids(answered) == command_ids(inputs[: len(printed)])
    assert f"again from line {len(printed) + 1}" in said
    assert printed == running.registered()
    settled = confirmed(running.bulk("create", inputs).ok().objects)
    assert printed.items() <= settled.items()
    assert len(running.registrations()) == len(inputs)


def _give(bulk: subprocess.Popen[bytes], inputs: list[dict[str, str]]) -> None:
    """Write all lines, or until the bulk ends; leave the pipe open."""
    assert bulk.stdin is not None
    with suppress(BrokenPipeError):
        for person in inputs:
            bulk.stdin.write(ndjson([person]))
        bulk.stdin.flush()


def test_a_second_interrupt_ends_at_once_and_names_unknown_outcomes(running: System) -> None:
    inputs = people(400)
    with running.paused("users"):
        bulk = running.start_bulk("create", inputs)
        _has_asked(bulk.process)
        while bulk.process.poll() is None:  # the first signal stops the reading, the next one the waiting
            bulk.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                bulk.process.wait(0.2)
        ran = bulk.end()

    assert ran.code == 130
    assert set(errors(ran.objects)) <= {"interrupted"}
    assert confirmed(ran.objects) == {}
    assert command_ids(ran.objects) == command_ids(inputs[: len(ran.objects)])
    settled = confirmed(running.bulk("create", inputs).ok().objects)
    assert len(settled) == len(running.registrations()) == len(inputs)


def test_an_interrupt_while_standard_input_is_quiet_ends_the_bulk(running: System) -> None:
    client = running.start("users", "create", "--from", "-", stdin=subprocess.PIPE)
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(ndjson(people(1)))
    client.stdin.flush()
    assert client.stdout.readline(), "it answers without waiting for more"
    client.send_signal(signal.SIGINT)
    assert client.wait(DEADLINE_S) == 130
    assert len(running.registrations()) == 1


def test_an_interrupt_of_a_waiting_command_ends_it_with_130(running: System) -> None:
    with running.paused("projections"):
        client = running.start("users", "list")
        _has_asked(client)
        ran = _interrupted(client)
    assert (ran.code, ran.out) == (130, "")


def test_a_rebuild_continues_in_its_worker_after_an_interrupt(running: System) -> None:
    running.bulk("create", people(500)).ok()
    client = running.start("projections", "rebuild", "users")
    _has_asked(client)

    assert _interrupted(client).code in (0, 130)
    eventually(lambda: "building" not in [each["state"] for each in running.generations()], "it has ended")
    assert len(running.users()) == 500


def test_a_followed_tail_of_events_ends_with_130(running: System) -> None:
    tail = running.start("events", "tail", "--json")
    assert tail.stdout is not None
    shown, numbers = select.poll(), count()  # not select(), which knows descriptors below 1024 only
    shown.register(tail.stdout, select.POLLIN)

    def has_output() -> bool:
        running.create(f"tail-{next(numbers)}@example.com")
        return bool(shown.poll(0))

    # The tail starts at the head, which moves until it asks.
    eventually(has_output, "the tail shows an event")
    assert _interrupted(tail).code == 130
