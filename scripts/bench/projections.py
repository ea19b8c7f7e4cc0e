"""What each projection costs: CPU time for each event that it reads, filled alone and without a server.

The events are those of `rebuild.py`: registrations and changes of names. The time of reading and of storing in SQLite is
in it, so compare projections with one another.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from adapters.clock import now_us
from adapters.log import Log
from adapters.sqlite.event_store import SqliteStore
from adapters.sqlite.read_model import SqliteReadModel
from adapters.wiring import open_codec
from domain.features import registry
from domain.kernel.projection import Projection
from scripts.bench.rebuild import fill
from scripts.bench.report import Figures, Section, Wanted, lines_of
from workers.projections.filling import Filling
from workers.projections.rebuild import Rebuild


def section(figures: Figures, notes: Sequence[str]) -> Section:
    wanted = [Wanted(f"CPU µs per event: {name}", name) for name in figures.by_name]
    return Section("Each projection alone", lines_of(wanted, figures), counts="events", notes=notes)


def measure(figures: Figures, *, events: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(SqliteStore(Path(folder, "events.db"))) as store:
        fill(store, events)
        for turn in range(rounds):
            for projection in registry().projections:
                path = Path(folder, f"{projection.name}-{turn}.db")
                with closing(SqliteReadModel(path)) as model:
                    figures.add(projection.name, _cpu_us(store, model, projection), events)


def _cpu_us(store: SqliteStore, model: SqliteReadModel, projection: Projection) -> float:
    """The CPU time of all threads for each event of a rebuild, in µs."""
    model.prepare(projection, now_us=now_us())
    parts = Filling(projection, store, open_codec(), model, now_us, Log(logging.getLogger("bench")))
    began_s = time.process_time()
    built = Rebuild(parts).run(lambda: False)
    assert built is not None
    return 1e6 * (time.process_time() - began_s) / max(built.events, 1)
