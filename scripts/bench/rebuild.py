"""Rebuild the projection `users` from a store of generated events, in turns with a bare loop over the same rows.

    python -m scripts.bench.rebuild [EVENTS] [PAIRS] [--postgres URL]

The bare loop is what any program has to do: SELECT, `json.loads`, INSERT OR REPLACE in one thread, with the same
durability and transactions as large. Both run on this machine, so compare within one run only.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.clock import now_us
from adapters.log import Log
from adapters.sqlite.database import Database
from adapters.sqlite.event_store import SqliteStore
from adapters.sqlite.read_model import SqliteReadModel
from adapters.wiring import open_codec
from domain.features import registry
from domain.kernel.behaviour import behaviour_of
from domain.kernel.events import EventData, Metadata, event_id
from domain.kernel.personal import Personal, Sealed
from domain.kernel.ports.event_store import Append
from domain.kernel.ports.read_model import ReadModel
from domain.kernel.uuid7 import Uuid7s
from domain.users.account import USER, UserRegistered, UserRenamed
from domain.users.projection import USERS
from workers.projections.filling import Filling
from workers.projections.next_batch import REBUILD_BATCH
from workers.projections.rebuild import Rebuild

_BOX = "w2SyGTfep5nyU7NLVMlrRmmTcGyW46RBAhIQ_2XmdAGCqghNTz9ebbgnbRszaVhjC1V-lbFHk8LqNsvf"
_RENAMED = 0.1
_TABLE = """CREATE TABLE bare(user_id INTEGER PRIMARY KEY, email TEXT, name TEXT, status TEXT, version INTEGER,
    registered_at_us INTEGER, updated_at_us INTEGER) STRICT"""


def measure(events: int = 100_000, pairs: int = 3, *, postgres_url: str = "") -> dict[str, float]:
    """Events a second, each the median of so many runs, and the peak of this process's memory in MB."""
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, closing(SqliteStore(Path(folder, "events.db"))) as store:
        fill(store, events)
        for turn in range(pairs):
            rates.setdefault("bare loop", []).append(bare(Path(folder, f"bare{turn}.db"), store, events))
            with closing(SqliteReadModel(Path(folder, f"read{turn}.db"))) as model:
                rates.setdefault("rebuild", []).append(rebuilt(store, model, events, Path(folder)))
            if postgres_url:
                from adapters.postgres.read_model import PostgresReadModel

                with closing(PostgresReadModel(postgres_url)) as other:
                    rates.setdefault("rebuild, PostgreSQL", []).append(
                        rebuilt(store, other, events, Path(folder))
                    )
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**{name: statistics.median(found) for name, found in rates.items()}, "peak MB": peak_mb}


class _Sealer:
    """Seals nothing: every value has the same box."""

    def seal(self, value: Personal, *, subject: int, field: str, event_id: UUID) -> Sealed:
        return Sealed(f"es1:{subject}:{event_id.hex}:{_BOX}")


def fill(store: SqliteStore, events: int) -> None:
    """Append events of users, one in ten a change of a name."""
    append(store, appends_of_users(events))


def append(store: SqliteStore, appends: Iterator[Append]) -> None:
    """Append in large transactions."""
    while some := list(islice(appends, 5_000)):
        store.append(some)


def appends_of_users(events: int) -> Iterator[Append]:
    """The same users and changes in each run, one event in each append."""
    chosen, codec, new_command_id = random.Random(1), open_codec(), Uuid7s(now_us, os.urandom)
    users, renamed = list[int](), dict[int, int]()
    for number in range(events):
        is_new = not users or chosen.random() > _RENAMED
        user_id = 300_000_000_000_000_000 + number * 1024 if is_new else chosen.choice(users)
        if is_new:
            users.append(user_id)
            version = 0
        else:
            version = renamed[user_id] = renamed.get(user_id, 0) + 1
        event = UserRegistered(Personal(""), Personal("")) if is_new else UserRenamed(Personal(""))
        command_id = new_command_id()
        data: EventData = codec.encode(
            event,
            event_id=event_id(command_id, 0),
            subject=user_id,
            metadata=Metadata(command_id, "register-user", command_id, command_id, "uid:1000"),
            sealer=_Sealer(),
        )
        yield Append(USER.stream_of(user_id), version - 1, [data])


def bare(path: Path, store: SqliteStore, events: int) -> float:
    """The events a second of a loop without this program's promises."""
    writing = Database(path, part="bare loop", migrations=(), derived=True)
    with closing(writing), store._database.reading() as reader:
        with writing.writing() as writer:
            writer.execute(_TABLE)
        began_s, done = time.perf_counter(), 0
        while done < events:
            rows: list[Any] = reader.execute(
                "SELECT stream, version, position, recorded_at_us, data FROM events WHERE position > ?"
                " ORDER BY position LIMIT ?",
                (done, REBUILD_BATCH),
            ).fetchall()
            made = []
            for stream, version, _, at_us, data in rows:
                fields = json.loads(data)
                personal = fields.get("email"), fields.get("name")
                made.append((int(stream[5:]), *personal, "active", version, at_us, at_us))
            with writing.writing() as writer:
                writer.executemany("INSERT OR REPLACE INTO bare VALUES(?, ?, ?, ?, ?, ?, ?)", made)
            done = rows[-1][2]
        return events / (time.perf_counter() - began_s)


def rebuilt(store: SqliteStore, model: ReadModel, events: int, home: Path | None = None) -> float:
    """The events a second of a rebuild, as that of a worker if the store is that of a home."""
    model.prepare(USERS, now_us=now_us())
    log = Log(logging.getLogger("bench"))
    code = behaviour_of(USERS, registry().aggregates)
    parts = Filling(USERS, store, open_codec(), model, now_us, log, code, home)
    began_s = time.perf_counter()
    built = Rebuild(parts).run(lambda: False)
    assert built is not None
    assert built.events == events
    return events / (time.perf_counter() - began_s)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("events", nargs="?", type=int, default=100_000)
    parser.add_argument("pairs", nargs="?", type=int, default=3)
    parser.add_argument("--postgres", default="", metavar="URL")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    for name, figure in measure(given.events, given.pairs, postgres_url=given.postgres).items():
        print(f"{name:<20} {figure:>10,.0f}")
    print(f"{'load before, after':<20} {load:.1f} {os.getloadavg()[0]:.1f}")
