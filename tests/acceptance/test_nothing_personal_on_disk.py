"""No name and no address is written to a database, a journal, a log or a file beside a socket.

A broker holds them in a request that is under way, until it is answered.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.messages import PERSISTENT, Properties, queue_of
from adapters.wiring import open_store
from tests.support.people import ndjson
from tests.support.postgres import execute
from tests.support.system import ROLES, System
from tests.support.waiting import eventually

NAME = "Canária Ünverwechselbar"
EMAIL = "canary-fhqwhgads@example.com"
LATER_NAME = "Canária Öfter Umbenannt"
LATER_EMAIL = "canary-xyzzyplugh@example.com"
WRONG = "canary-frobozzmagic"
CANARIES = (NAME, EMAIL, LATER_NAME, LATER_EMAIL, WRONG)

# --- the search ------------------------------------------------------------------------------


def encodings(text: str) -> dict[str, bytes]:
    """The forms in which a file could hold a text, in lower case where case does not matter."""
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
        # Without the first and the last digits, which also depend on the neighbours.
        digits = base64.b64encode(bytes(offset) + raw)[4 if offset else 0 : -4]
        found[f"base64 at offset {offset}"] = digits
        found[f"URL-safe base64 at offset {offset}"] = digits.translate(bytes.maketrans(b"+/", b"-_"))
    return found


def found_in(root: Path, texts: Sequence[str]) -> list[str]:
    """The files below a folder whose path or content holds any form of any text."""
    return _search(_files(root), texts)


def found_in_parts(system: System, texts: Sequence[str]) -> list[str]:
    """The events of the store and the rows of PostgreSQL that hold any form of any text."""
    found = _search(_events(system), texts)
    if system.settings.vault.startswith("postgresql:"):
        found += _search(_rows(system.settings.vault), texts)
    return found


def _search(places: Iterable[tuple[str, bytes]], texts: Sequence[str]) -> list[str]:
    needles = [
        (f"{text!r} as {name}", needle.lower()) for text in texts for name, needle in encodings(text).items()
    ]
    found: list[str] = []
    for place, content in places:
        haystack = content.lower()
        found += [f"{place}: {what}" for what, needle in needles if needle in haystack]
    return found


def _files(root: Path) -> Iterator[tuple[str, bytes]]:
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder, name)
            content = path.read_bytes() if path.is_file() else b""
            yield str(path), os.fsencode(path) + b"\n" + content


def _events(system: System) -> Iterator[tuple[str, bytes]]:
    with closing(open_store(system.settings.store)) as store:
        for event in store.read_all(system.baseline.position, 1_000_000):
            about = f"{event.stream} {event.type}".encode()
            yield f"event {event.position}", b"\n".join((about, event.data, event.metadata))


def _rows(url: str) -> Iterator[tuple[str, bytes]]:
    """Every row of the vault and the read models in PostgreSQL, as text."""
    prefix = url.rpartition("schema=")[2]
    tables = execute(url, f"SELECT schemaname, tablename FROM pg_tables WHERE schemaname LIKE '{prefix}\\_%'")
    assert {schema for schema, _ in tables} == {f"{prefix}_vault", f"{prefix}_read_models"}
    for schema, table in tables:
        for (row,) in execute(url, f'SELECT t::text FROM "{schema}"."{table}" AS t'):
            yield f"{schema}.{table}", str(row).encode()


@pytest.mark.parametrize("form", encodings("x"))
def test_the_search_finds_a_planted_text(tmp_path: Path, form: str) -> None:
    text = NAME * 2
    (tmp_path / "planted.bin").write_bytes(b"\x00\x01" + encodings(text)[form] + b"\x02")
    assert found_in(tmp_path, (text,))
    assert found_in(tmp_path, (EMAIL,)) == []


@pytest.mark.parametrize("before", [b"", b"a", b"ab"])
def test_the_search_finds_base64_of_a_text_within_another(tmp_path: Path, before: bytes) -> None:
    (tmp_path / "planted").write_bytes(base64.b64encode(before + EMAIL.encode() + b" and more"))
    assert found_in(tmp_path, (EMAIL,))


# --- everything that can happen to personal data ---------------------------------------------


def _live_a_life(system: System) -> None:
    """Run every command on a user, and everything that can go wrong with it."""
    user_id = system.create(EMAIL, NAME)
    system.create("other@example.com", "Other")
    system.es("users", "rename", user_id, LATER_NAME).ok()
    system.es("users", "change-email", user_id, LATER_EMAIL).ok()
    system.es("users", "find", "--email", LATER_EMAIL).ok()
    system.es("users", "get", user_id).ok()
    system.es("users", "history", user_id).ok()
    assert LATER_NAME in [user["name"] for user in system.users()]
    _be_refused(system)
    _misuse_sockets(system, ("supervisor", *ROLES) if system.settings.is_local else ("supervisor",))
    if not system.settings.is_local:
        _misuse_queues(system)
    for worker in system.status()["workers"]:
        assert worker["restarts"] == 0, worker


def _be_refused(system: System) -> None:
    """Send personal values in refused commands and bad input, also where they do not belong."""
    create = ("users", "create", "--email")
    for code, arguments in (
        (1, (*create, LATER_EMAIL, "--name", NAME)),
        (2, (*create, WRONG, "--name", NAME)),
        (2, (*create, EMAIL, "--name", f"{WRONG}\x07")),
        (2, (*create, EMAIL, "--name", WRONG * 20)),
        (2, (*create, EMAIL, "--name", NAME, "--command-id", WRONG)),
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
    bad = ndjson([{"email": WRONG, "name": NAME}, {WRONG: NAME, "email": EMAIL}])
    bad += ndjson(
        [{"email": [EMAIL], "name": {NAME: 1}}, {"email": EMAIL, "name": NAME, "command_id": WRONG}]
    )
    bad += f'{{"email": "{EMAIL}", "name": "{NAME}" broken\n{NAME}\n'.encode()
    assert system.es("users", "create", "--from", "-", stdin=bad).without_traceback().code == 2


MISUSES: Sequence[dict[str, object]] = (
    {"kind": WRONG, "body": {"email": EMAIL}},
    {"kind": "users.create", "body": {"command_id": WRONG, "actor": 5, "input": {"email": EMAIL}}},
    {"kind": "users.create", "body": {"input": [NAME, EMAIL]}},
    {"kind": "users.get", "body": {"user_id": {NAME: EMAIL}, "version": WRONG, "at_us": NAME}},
    {"kind": "users.get", "body": {"user_id": "5", "version": WRONG}},
    {"kind": "events.read", "body": {"prefix": [NAME], "after_position": EMAIL}},
    {"kind": "streams.read", "body": {"stream": NAME, "limit": WRONG}},
    {"kind": "ids.next", "body": {"count": EMAIL}},
    {"kind": "erasures.status", "body": {"user_id": EMAIL}},
)
"""Requests that no client of this program sends."""


def _misuse_sockets(system: System, roles: Sequence[str]) -> None:
    """Send each misuse on a connection of its own."""
    for role in roles:
        for message in [*({"id": 1, **misuse} for misuse in MISUSES), {"id": NAME}, [NAME, EMAIL]]:
            raw = json.dumps(message).encode()
            _send(system, role, struct.pack(">I", len(raw)) + raw)
        _send(system, role, EMAIL.encode() * 10)


def _send(system: System, role: str, raw: bytes) -> None:
    """Send, and wait for an answer or the end of the connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect(str(system.home / "run" / f"{role}.sock"))
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while connection.recv(65536):
                pass


def _misuse_queues(system: System) -> None:
    """Send all misuses in one message, which is answered, so that the broker keeps nothing.

    An unreadable message would become a dead letter, which is kept until an operator decides (test_dead_letters_cli.py).
    """
    with open_channel(system.settings.broker) as channel:
        for role in system.roles:
            properties = Properties(message_id=NAME, correlation_id=WRONG, delivery_mode=PERSISTENT)
            raw = json.dumps({"requests": MISUSES}).encode()
            channel.basic_publish("", queue_of(role), raw, properties, mandatory=True)

    def is_empty() -> bool:
        kept = [(queue["waiting"], queue["dead"]) for queue in system.status()["queues"]]
        return kept == [(0, 0)] * len(system.roles)

    eventually(is_empty, "everything was answered, and nothing is kept")


def test_no_file_holds_personal_data_while_running_or_stopped(running: System) -> None:
    _live_a_life(running)
    assert found_in(running.root, CANARIES) + found_in_parts(running, CANARIES) == []

    running.es("projections", "rebuild", "users").ok()
    for role in ("users", "projections"):
        running.signal(role, signal.SIGKILL)
        eventually(lambda: running.worker(role)["restarts"] == 1, f"{role} was restarted")  # noqa: B023
    user_id = running.ready().find(LATER_EMAIL)["user_id"]
    assert found_in(running.root, CANARIES) + found_in_parts(running, CANARIES) == []

    assert found_in_parts(running, (user_id,)), "the search finds what is there"
    running.es("users", "delete", user_id).ok()
    running.erase(user_id)
    running.es("down").ok()
    assert found_in(running.root, CANARIES) + found_in_parts(running, CANARIES) == []


def test_no_file_holds_personal_data_after_a_kill_during_a_bulk(running: System) -> None:
    crowd = [{"email": f"{n}.{EMAIL}", "name": f"{NAME} {n}"} for n in range(2000)]
    bulk = running.start_bulk("create", crowd)
    bulk.reached(500)
    running.kill_everything()
    bulk.process.kill()

    assert found_in(running.home, CANARIES) + found_in_parts(running, CANARIES) == []
    assert found_in(running.root, CANARIES), "the search finds the input in this test's own files"
