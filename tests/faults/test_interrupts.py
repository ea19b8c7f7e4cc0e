"""Ctrl-C in the middle: what is printed is settled, what isn't is safe to repeat."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.conftest import DEADLINE_S, System, confirmed, errors, ndjson, people, wait_until

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="needs /proc to see what a process waits for"
)


def test_a_first_interrupt_stops_reading_and_prints_everything_that_was_sent(running: System) -> None:
    inputs = people(6000)
    with (running.root / "answers").open("wb") as answers:
        bulk = running.start("users", "create", "--from", "-", stdin=subprocess.PIPE, stdout=answers)
    printed_so_far = (running.root / "answers").read_bytes
    with ThreadPoolExecutor(1) as pool:
        # The last line is never given, so that the bulk can't be at its end, however late the signal comes.
        feeding = pool.submit(_give, bulk, inputs[:-1])
        wait_until(lambda: printed_so_far().count(b"\n") >= 100 or bulk.poll() is not None, "100 answers")
        bulk.send_signal(signal.SIGINT)
        assert bulk.wait(DEADLINE_S) == 130
        feeding.result(DEADLINE_S)
    assert bulk.stderr is not None
    said = bulk.stderr.read().decode()

    assert "interrupted" in said
    assert "Traceback" not in said
    told = [json.loads(line) for line in printed_so_far().splitlines()]
    printed = confirmed(told)
    assert 100 <= len(printed) < len(inputs)
    assert [answer["command_id"] for answer in told] == [p["command_id"] for p in inputs[: len(printed)]]
    stored = {event["command_id"]: event["stream"].removeprefix("user-") for event in running.registrations()}
    assert printed == stored
    settled = confirmed(running.bulk("create", inputs).ok().objects)
    assert printed.items() <= settled.items()
    assert len(running.registrations()) == len(inputs)


def _give(bulk: subprocess.Popen[bytes], inputs: list[dict[str, str]]) -> None:
    """Write until all is written, or nobody reads any more; and leave it open."""
    assert bulk.stdin is not None
    with suppress(BrokenPipeError):
        for person in inputs:
            bulk.stdin.write(ndjson([person]))
        bulk.stdin.flush()


def test_a_second_interrupt_waits_for_nobody_and_names_what_is_unknown(running: System) -> None:
    inputs = people(400)
    stopped = running.signal("users", signal.SIGSTOP)
    try:
        bulk = running.start_bulk("create", inputs)
        wait_until(lambda: _connected(bulk.process.pid), "the bulk has sent something")
        while bulk.process.poll() is None:  # one is for stopping, the next one for not waiting
            bulk.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                bulk.process.wait(0.2)
        ran = bulk.end().without_traceback()
    finally:
        os.kill(stopped, signal.SIGCONT)

    assert ran.code == 130
    assert set(errors(ran.objects)) <= {"interrupted"}
    assert confirmed(ran.objects) == {}
    unknown = [answer["command_id"] for answer in ran.objects]
    assert unknown == [person["command_id"] for person in inputs[: len(unknown)]]
    settled = confirmed(running.bulk("create", inputs).ok().objects)
    assert len(settled) == len(running.registrations()) == len(inputs)


def test_an_interrupt_while_standard_input_is_quiet_ends_the_bulk(running: System) -> None:
    (person,) = people(1)
    client = running.start("users", "create", "--from", "-", stdin=subprocess.PIPE)
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(ndjson([person]))
    client.stdin.flush()
    assert client.stdout.readline()  # it answers without waiting for more
    client.send_signal(signal.SIGINT)
    assert client.wait(DEADLINE_S) == 130
    assert len(running.registrations()) == 1


def test_an_interrupt_of_a_command_that_waits_is_130_without_a_traceback(running: System) -> None:
    stopped = running.signal("projections", signal.SIGSTOP)
    try:
        client = running.start("users", "list")
        wait_until(lambda: _connected(client.pid), "the command has asked")
        client.send_signal(signal.SIGINT)
        out, err = client.communicate(timeout=DEADLINE_S)
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert client.returncode == 130
    assert (out, b"Traceback" in err) == (b"", False)


def test_an_interrupted_rebuild_goes_on_in_its_worker(running: System) -> None:
    running.bulk("create", people(500)).ok()
    client = running.start("projections", "rebuild", "users")
    wait_until(lambda: _connected(client.pid) or client.poll() is not None, "the command has asked")
    client.send_signal(signal.SIGINT)
    _, err = client.communicate(timeout=DEADLINE_S)

    assert b"Traceback" not in err
    assert client.returncode in (0, 130)
    wait_until(
        lambda: all(s["state"] != "building" for s in _generations(running)),
        "no rebuild is under way any more",
    )
    assert len(running.users()) == 500


def test_a_followed_tail_of_events_ends_with_130(running: System) -> None:
    tail = running.start("events", "tail", "--json")
    running.create("tail-0@example.com")
    # The tail starts at the end of the store, wherever that is when it asks.
    made = 0

    def seen() -> bool:
        nonlocal made
        made += 1
        running.create(f"tail-{made}@example.com")
        assert tail.stdout is not None
        return bool(
            select.select([tail.stdout], [], [], 0)[0]
        )  # to read would wait for ever if it began late

    wait_until(seen, "the tail shows an event")
    tail.send_signal(signal.SIGINT)
    _, err = tail.communicate(timeout=DEADLINE_S)
    assert tail.returncode == 130
    assert b"Traceback" not in err


def _generations(system: System) -> list[dict[str, object]]:
    return system.es("projections", "status", "users", "--json").ok().objects


def _connected(pid: int) -> bool:
    """Whether the process has a socket open, so that it is past its start and asks somebody."""
    folder = Path(f"/proc/{pid}/fd")
    with suppress(OSError):
        return any(os.readlink(entry).startswith("socket:") for entry in folder.iterdir())
    return False
