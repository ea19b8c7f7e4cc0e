"""The limits that figures are compared with: bare loops over apsw that write the same rows with the same durability.

    python -m scripts.bench.limits create FOLDER COUNT GROUP    reserve, append, confirm: three commits for a group
    python -m scripts.bench.limits rename FOLDER COUNT          read a stream, append an event to it
    python -m scripts.bench.limits hot FOLDER COUNT GROUP       append to one stream
    python -m scripts.bench.limits erase FOLDER COUNT           overwrite a key, delete a claim; append an event
    python -m scripts.bench.limits rebuild EVENTS_DB FOLDER     SELECT, json.loads, INSERT OR REPLACE
    python -m scripts.bench.limits list FOLDER COUNT            SELECT, json.dumps
    python -m scripts.bench.limits echo SOCKET                  answer each request from a dictionary

It prints `{"count", "seconds", "ms": [each commit], "cpu_s", "written"}`. The tables are the least that can hold the rows:
events by stream and version, keys by subject, claims by a random tag. Nothing is sealed, decided or projected.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from adapters.sqlite.vault import PAGE_BYTES as VAULT_PAGE_BYTES
from scripts.bench.cpu import written_bytes
from workers.projections.next_batch import REBUILD_BATCH

_DATA = json.dumps({"email": "e" * 84, "name": "n" * 84}).encode()
_METADATA = json.dumps({"command_id": "0" * 75, "actor": "uid:1000"}).encode()
_TABLES = {
    "events": """CREATE TABLE IF NOT EXISTS events(position INTEGER PRIMARY KEY, stream TEXT, version INTEGER, event_id BLOB,
        type TEXT, recorded_at_us INTEGER, data BLOB, metadata BLOB, UNIQUE(stream, version))""",
    "vault": """CREATE TABLE IF NOT EXISTS data_keys(subject INTEGER PRIMARY KEY, wrapped BLOB);
        CREATE TABLE IF NOT EXISTS email_claims(tag BLOB PRIMARY KEY, subject INTEGER, command_id BLOB, confirmed INTEGER)""",
    "read": """CREATE TABLE IF NOT EXISTS users(user_id INTEGER PRIMARY KEY, email TEXT, name TEXT, status TEXT, version INTEGER,
        registered_at_us INTEGER, updated_at_us INTEGER)""",
}
_APPEND = "INSERT INTO events(stream, version, event_id, type, recorded_at_us, data, metadata) VALUES(?, ?, ?, ?, ?, ?, ?)"


def opened(folder: Path, name: str) -> apsw.Connection:
    """A file of its own, as durable as those of the system."""
    folder.mkdir(parents=True, exist_ok=True)
    connection = apsw.Connection(str(folder / f"{name}.db"))
    page_bytes = VAULT_PAGE_BYTES if name == "vault" else 4096
    connection.execute(f"PRAGMA page_size = {page_bytes}")
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA cache_size = -64000"):
        connection.execute(statement)
    connection.execute(_TABLES[name])
    return connection


def _count(connection: apsw.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT coalesce(max(rowid), 0) FROM {table}").get)


def _event(stream: str, version: int, type_: str = "registered.v1") -> tuple[Any, ...]:
    return stream, version, os.urandom(16), type_, time.time_ns() // 1000, _DATA, _METADATA


def create(folder: Path, count: int, group: int) -> list[float]:
    events, vault = opened(folder, "events"), opened(folder, "vault")
    first, tags = _count(vault, "data_keys"), [os.urandom(32) for _ in range(count)]
    ms = []
    for start in range(0, count, group):
        began_s = time.perf_counter()
        numbers = range(start, min(start + group, count))
        with vault:
            vault.executemany(
                "INSERT INTO data_keys VALUES(?, ?)", [(first + n + 1, os.urandom(60)) for n in numbers]
            )
            vault.executemany(
                "INSERT INTO email_claims VALUES(?, ?, ?, 0)",
                [(tags[n], first + n + 1, os.urandom(16)) for n in numbers],
            )
        with events:
            events.executemany(_APPEND, [_event(f"user-{first + n + 1}", 0) for n in numbers])
        with vault:
            vault.executemany(
                "UPDATE email_claims SET confirmed = 1 WHERE tag = ?", [(tags[n],) for n in numbers]
            )
        ms.append((time.perf_counter() - began_s) * 1000)
    return ms


def rename(folder: Path, count: int) -> list[float]:
    events = opened(folder, "events")
    users, ms = _count(opened(folder, "vault"), "data_keys"), []
    for number in range(count):
        stream = f"user-{number * 7919 % users + 1}"
        began_s = time.perf_counter()
        stored: list[Any] = events.execute(
            "SELECT data FROM events WHERE stream = ? ORDER BY version", (stream,)
        ).fetchall()
        for (data,) in stored:
            json.loads(data)
        with events:
            events.execute(_APPEND, _event(stream, len(stored), "renamed.v1"))
        ms.append((time.perf_counter() - began_s) * 1000)
    return ms


def hot(folder: Path, count: int, group: int) -> list[float]:
    events, ms = opened(folder, "events"), []
    version: Any = events.execute("SELECT coalesce(max(version), -1) FROM events WHERE stream = 'hot'").get
    for start in range(0, count, group):
        began_s = time.perf_counter()
        with events:
            size = min(group, count - start)
            events.executemany(_APPEND, [_event("hot", version + n + 1, "renamed.v1") for n in range(size)])
        version += size
        ms.append((time.perf_counter() - began_s) * 1000)
    return ms


def erase(folder: Path, count: int) -> list[float]:
    events, vault, ms = opened(folder, "events"), opened(folder, "vault"), []
    claims: list[Any] = vault.execute("SELECT tag, subject FROM email_claims LIMIT ?", (count,)).fetchall()
    for tag, subject in claims:
        began_s = time.perf_counter()
        stream = f"erasure-{subject}"
        with events:
            events.execute(_APPEND, _event(stream, 0, "erased.v1"))
        with vault:
            vault.execute("UPDATE data_keys SET wrapped = zeroblob(60) WHERE subject = ?", (subject,))
            vault.execute("DELETE FROM email_claims WHERE tag = ?", (tag,))
        with events:
            events.execute(_APPEND, _event(stream, 1, "erasure-completed.v1"))
        ms.append((time.perf_counter() - began_s) * 1000)
    return ms


def rebuild(events_db: Path, folder: Path) -> int:
    """Fill an empty table from the events of a system, in transactions as large as those of a rebuild; their number."""
    (folder / "read.db").unlink(missing_ok=True)
    source = apsw.Connection(str(events_db), flags=apsw.SQLITE_OPEN_READONLY)
    target, after, done = opened(folder, "read"), 0, 0
    page = """SELECT position, stream, version, event_id, recorded_at_us, data FROM events
              WHERE position > ? ORDER BY position LIMIT ?"""
    while True:
        rows: list[Any] = source.execute(page, (after, REBUILD_BATCH)).fetchall()
        if not rows:
            return done
        after, done = rows[-1][0], done + len(rows)
        made = []
        for _, stream, version, event_id, at_us, data in rows:
            if stream.startswith("user-"):
                values, user_id = json.loads(data), stream[5:]
                # What a copied value was sealed for, which its event leaves out.
                sealed_for = f"es1:{user_id}:{event_id.hex()}:"
                personal = [
                    text and sealed_for + text[4:] for text in (values.get("email"), values.get("name"))
                ]
                made.append((int(user_id), *personal, "active", version, at_us, at_us))
        with target:
            target.executemany("INSERT OR REPLACE INTO users VALUES(?, ?, ?, ?, ?, ?, ?)", made)


def listing(folder: Path, count: int) -> int:
    """Print rows as JSON, as many as there are."""
    with open(os.devnull, "w") as out:
        done = 0
        for row in opened(folder, "read").execute("SELECT * FROM users ORDER BY user_id LIMIT ?", (count,)):
            out.write(json.dumps(row) + "\n")
            done += 1
    return done


def echo(path: Path) -> None:
    """Answer each line of one connection after another with the value of its key, until standard input closes."""
    rows = {str(number): {"email": "e" * 40, "name": "n" * 40} for number in range(1000)}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        print("listening", flush=True)
        connection, _ = server.accept()
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                stream.write(json.dumps({"ok": rows[json.loads(line)["user_id"]]}).encode() + b"\n")
                stream.flush()


def main() -> None:
    what, path, *rest = sys.argv[1:]
    folder = Path(path)
    if what == "echo":
        echo(folder)
        return
    acts: dict[str, Callable[[], list[float] | int]] = {
        "create": lambda: create(folder, int(rest[0]), int(rest[1])),
        "rename": lambda: rename(folder, int(rest[0])),
        "hot": lambda: hot(folder, int(rest[0]), int(rest[1])),
        "erase": lambda: erase(folder, int(rest[0])),
        "rebuild": lambda: rebuild(folder, Path(rest[0])),
        "list": lambda: listing(folder, int(rest[0])),
    }
    written, began_s, began_cpu_s = written_bytes(os.getpid()), time.perf_counter(), time.process_time()
    done = acts[what]()
    seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    ms, count = (done, int(rest[0])) if isinstance(done, list) else ([], done)
    found = {"count": count, "seconds": seconds, "ms": ms, "cpu_s": cpu_s}
    found["written"] = written_bytes(os.getpid()) - written
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main()
