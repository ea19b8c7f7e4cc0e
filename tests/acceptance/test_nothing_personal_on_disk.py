"""No name and no address is ever written: not to a database, a journal, a log or beside a socket."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import struct
from pathlib import Path

import pytest

from tests.acceptance.conftest import ROLES, System, ndjson, wait_until

NAME = "Canária Ünverwechselbar"
EMAIL = "canary-fhqwhgads@example.com"
LATER_NAME = "Canária Öfter Umbenannt"
LATER_EMAIL = "canary-xyzzyplugh@example.com"
WRONG = "canary-frobozzmagic"
CANARIES = (NAME, EMAIL, LATER_NAME, LATER_EMAIL, WRONG)


def encodings(text: str) -> dict[str, bytes]:
    """The forms in which a text could hide in a file, in lower case as far as case doesn't matter."""
    raw = text.encode()
    found = {
        "UTF-8": raw,
        "Latin-1": text.encode("latin-1"),
        "UTF-16 little endian": text.encode("utf-16-le"),
        "UTF-16 big endian": text.encode("utf-16-be"),
        "hexadecimal": raw.hex().encode(),
        "hexadecimal, upper case": raw.hex().upper().encode(),
        "JSON-escaped": json.dumps(text)[1:-1].encode(),
        "repr": ascii(text)[1:-1].encode(),
        "bytes repr": repr(raw)[2:-1].encode(),
        "percent-encoded": "".join(chr(b) if chr(b).isalnum() else f"%{b:02X}" for b in raw).encode(),
    }
    for offset in range(3):
        # The first and the last digits also depend on the neighbours.
        digits = base64.b64encode(bytes(offset) + raw)
        start, end = (4, -4) if offset else (0, -4)
        found[f"base64 at offset {offset}"] = digits[start:end]
        found[f"URL-safe base64 at offset {offset}"] = digits.translate(bytes.maketrans(b"+/", b"-_"))[
            start:end
        ]
    return found


def found_in(root: Path, texts: tuple[str, ...]) -> list[str]:
    """Where any form of any text is in a file's content or in a path under `root`."""
    needles = [
        (f"{text!r} as {name}", needle.lower()) for text in texts for name, needle in encodings(text).items()
    ]
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder, name)
            content = path.read_bytes() if path.is_file() else b""
            haystack = (os.fsencode(path) + b"\n" + content).lower()
            found += [f"{path}: {what}" for what, needle in needles if needle in haystack]
    return found


@pytest.mark.parametrize("form", encodings("x"))
def test_the_search_finds_what_was_planted(tmp_path: Path, form: str) -> None:
    text = NAME * 2
    (tmp_path / "planted.bin").write_bytes(b"\x00\x01" + encodings(text)[form] + b"\x02")
    assert found_in(tmp_path, (text,))
    assert found_in(tmp_path, (EMAIL,)) == []


@pytest.mark.parametrize("before", [b"", b"a", b"ab"])
def test_the_search_finds_base64_of_a_text_in_the_middle_of_another(tmp_path: Path, before: bytes) -> None:
    (tmp_path / "planted").write_bytes(base64.b64encode(before + EMAIL.encode() + b" and more"))
    assert found_in(tmp_path, (EMAIL,))


def _live_a_life(system: System) -> None:
    """Everything that can happen to personal data, and everything that can go wrong with it."""
    user_id = system.create(EMAIL, NAME)
    system.create("other@example.com", "Other")
    system.es("users", "rename", user_id, LATER_NAME).ok()
    system.es("users", "change-email", user_id, LATER_EMAIL).ok()
    system.es("users", "find", "--email", LATER_EMAIL).ok()
    system.es("users", "get", user_id).ok()
    system.es("users", "history", user_id).ok()
    assert LATER_NAME in system.es("users", "list").ok().out
    # Refusals and bad input of every kind, with the value where it doesn't belong.
    for code, arguments in (
        (1, ("users", "create", "--email", LATER_EMAIL, "--name", NAME)),
        (2, ("users", "create", "--email", WRONG, "--name", NAME)),
        (2, ("users", "create", "--email", EMAIL, "--name", f"{WRONG}\x07")),
        (2, ("users", "create", "--email", EMAIL, "--name", WRONG * 20)),
        (2, ("users", "create", "--email", EMAIL, "--name", NAME, "--command-id", WRONG)),
        (3, ("users", "find", "--email", EMAIL)),
        (3, ("users", "rename", "123", NAME)),
        (3, ("users", "change-email", "123", EMAIL)),
        (2, ("users", "get", WRONG)),
        (2, ("users", "get", EMAIL)),
        (2, ("users", "list", "--status", WRONG)),
        (3, ("streams", "read", WRONG)),
        (3, ("projections", "rebuild", WRONG)),
        (2, ("gdpr", "erase", WRONG, "--yes")),
        (2, ("logs", WRONG)),
        (2, ("users", WRONG)),
    ):
        ran = system.es(*arguments).without_traceback()
        assert ran.code == code, ran
    bad = ndjson(
        [{"email": WRONG, "name": NAME}, {WRONG: NAME, "email": EMAIL}, {"email": [EMAIL], "name": {NAME: 1}}]
    )
    bad += f'{{"email": "{EMAIL}", "name": "{NAME}" broken\n{NAME}\n'.encode()
    bad += ndjson([{"email": EMAIL, "name": NAME, "command_id": WRONG}])
    assert system.es("users", "create", "--from", "-", stdin=bad).without_traceback().code == 2
    _misuse_sockets(system)


def _misuse_sockets(system: System) -> None:
    """Requests that no client of ours sends, each on a connection of its own."""
    for role in ("supervisor", *ROLES):
        for message in (
            {"id": NAME, "kind": WRONG, "body": {"email": EMAIL}},
            {
                "id": 1,
                "kind": "users.create",
                "body": {"command_id": WRONG, "actor": 5, "input": {"email": EMAIL}},
            },
            {"id": 1, "kind": "users.create", "body": {"input": [NAME, EMAIL]}},
            {
                "id": 1,
                "kind": "users.get",
                "body": {"user_id": {NAME: EMAIL}, "version": WRONG, "at_us": NAME},
            },
            {"id": 1, "kind": "users.get", "body": {"user_id": "5", "version": WRONG}},
            {"id": 1, "kind": "events.read", "body": {"prefix": [NAME], "after_position": EMAIL}},
            {"id": 1, "kind": "streams.read", "body": {"stream": NAME, "limit": WRONG}},
            {"id": 1, "kind": "ids.next", "body": {"count": EMAIL}},
            {"id": 1, "kind": "erasures.status", "body": {"user_id": EMAIL}},
            [NAME, EMAIL],
        ):
            raw = json.dumps(message).encode()
            _send(system, role, struct.pack(">I", len(raw)) + raw)
        _send(system, role, EMAIL.encode() * 10)
    for worker in system.status()["workers"]:
        assert worker["restarts"] == 0, worker


def _send(system: System, role: str, raw: bytes) -> None:
    """Send, and wait for an answer or the end of the connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect(str(system.home / "run" / f"{role}.sock"))
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        try:
            while connection.recv(65536):
                pass
        except ConnectionError:
            return


def test_nothing_personal_is_in_any_file_while_running_or_stopped(running: System) -> None:
    _live_a_life(running)
    assert found_in(running.root, CANARIES) == []

    running.es("projections", "rebuild", "users").ok()
    for role in ("users", "projections"):
        running.signal(role, signal.SIGKILL)
        wait_until(
            lambda role=role: running.worker(role)["restarts"] == 1, f"the {role} worker was restarted"
        )
    running.ready()
    user_id = running.es("users", "find", "--email", LATER_EMAIL, "--json").ok().object["user_id"]
    assert found_in(running.root, CANARIES) == []

    running.es("users", "delete", user_id).ok()
    running.es("gdpr", "erase", user_id, "--yes").ok()
    running.es("down").ok()
    assert found_in(running.root, CANARIES) == []


def test_nothing_personal_is_in_any_file_after_a_kill_in_the_middle_of_a_bulk(running: System) -> None:
    crowd = [{"email": f"{n}.{EMAIL}", "name": f"{NAME} {n}"} for n in range(2000)]
    bulk = running.start_bulk("create", crowd)
    bulk.reached(500)
    for pid in running.processes():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not running.processes(), "everything is dead")
    bulk.process.kill()

    assert found_in(running.home, CANARIES) == []
    # And of this test's own files the search finds the input.
    assert found_in(running.root, CANARIES)
