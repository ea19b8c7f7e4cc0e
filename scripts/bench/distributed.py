"""The distributed profile over RabbitMQ and PostgreSQL at several sizes, with its events in SQLite.

Each size has servers and a database of its own, filled by the real bulk. The lines are those of the embedded profile, with
what is stored in PostgreSQL: tables with their indexes, rows, and the write-ahead log. That log is one of the whole
server, so another program that uses it is counted too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from scripts.bench import goals
from scripts.bench.cpu import Group
from scripts.bench.growth import OneSize, Sizes, at_all_sizes
from scripts.bench.home import used_bytes
from scripts.bench.parts import IN_HOME, Parts, throw_away
from scripts.bench.report import Figures, Section, Wanted, lines_of
from tests.support.postgres import execute

_GOALS = {"bulk": {0: 3000}}
_SAME = (
    *("bulk", "create p50", "create p99", "one in flight", "rename p50", "rename p99", "get p50", "get p99"),
    *("list page p50", "readable at rest p50", "readable at rest p99", "erasure p50", "rebuild", "CPU"),
    *("rest of projections", "rest of erasures"),
    *(f"memory of {role}" for role in ("ids", "users", "erasures", "projections")),
)
_ROLES = ("ids", "users", "projections", "erasures", "relay", "client", "RabbitMQ", "PostgreSQL")
_SCHEMAS = {"vault": "es_vault", "read": "es_read_models"}
_LOSS = 0.2

LINES = (
    *(
        replace(line, goals=_GOALS.get(line.of, {}))
        for line in goals.LINES
        if line.of in _SAME and not line.over
    ),
    Wanted("relay at rest, % of a core", "rest of relay", at_most=True),
    Wanted("memory of relay, MB at most", "memory of relay", at_most=True, loss=_LOSS),
    Wanted("stored for a user, bytes", "stored", at_most=True, loss=_LOSS),
    Wanted("  in events.db", "stored in events", at_most=True),
    Wanted("  in PostgreSQL, the vault with its indexes", "stored in vault", at_most=True),
    Wanted("  in PostgreSQL, the read models with their indexes", "stored in read", at_most=True),
    Wanted("rows for a user, in the vault", "rows in vault", at_most=True),
    Wanted("rows for a user, in the read models", "rows in read", at_most=True),
    Wanted("write-ahead log of PostgreSQL for a create, bytes", "logged", at_most=True, loss=_LOSS),
)


def section(figures: Figures, notes: Sequence[str]) -> Section:
    return Section(
        "RabbitMQ and PostgreSQL, events in SQLite",
        lines_of(LINES, figures),
        counts="users",
        matrix=goals.by_role(figures, _ROLES),
        matrix_title="for a create",
        notes=notes,
    )


def measure(sizes: Sizes, figures: Figures, notes: list[str], *, until_s: float = float("inf")) -> None:
    """`until_s` is by `time.monotonic`."""

    @contextmanager
    def opened(users: int) -> Iterator[Distributed]:
        with throw_away(IN_HOME) as parts:
            yield Distributed(parts, users, sizes, figures, notes)

    at_all_sizes(opened, sizes, figures, notes, until_s=until_s)


class Distributed(OneSize):
    """The measurements over servers of their own."""

    def __init__(self, parts: Parts, users: int, sizes: Sizes, figures: Figures, notes: list[str]) -> None:
        super().__init__(parts.system, users, sizes, figures, notes)
        self._servers = parts.servers
        self._database = parts.urls["ES_DATABASE"]

    def _parts(self, _number: int) -> list[tuple[str, Callable[[], None]]]:
        return [
            ("bulk", self._bulk),
            ("creates", self._creates),
            ("renames", self._renames),
            ("gets", self._gets),
            ("pages", self._pages),
            ("readable at rest", self._readable_at_rest),
            ("erasures", self._erasures),
            ("rebuild", self._rebuild),
            ("rest", self._rest),
        ]

    def _beside(self) -> Mapping[str, Group]:
        return self._servers

    def fill(self) -> None:
        empty = self._rows()
        super().fill()
        for name, rows in self._rows().items():
            self._add(f"rows in {name}", (rows - empty[name]) / self.users)

    def _bulk(self) -> None:
        before = self._logged()
        super()._bulk()
        self._add("logged", (self._logged() - before) / self._sizes.bulk)

    # --- counted in PostgreSQL -------------------------------------------------------------------

    def _stored(self) -> Mapping[str, int]:
        in_database = {
            name: self._number(f"SELECT sum(pg_total_relation_size(oid)) FROM {_tables_of(schema)}")
            for name, schema in _SCHEMAS.items()
        }
        return {"events": used_bytes(self._system.home / "events.db"), **in_database}

    def _rows(self) -> Mapping[str, int]:
        return {name: self._rows_of(schema) for name, schema in _SCHEMAS.items()}

    def _rows_of(self, schema: str) -> int:
        tables = execute(self._database, f"SELECT oid::regclass::text FROM {_tables_of(schema)}")
        counts = " UNION ALL ".join(f"SELECT count(*) AS number FROM {name}" for (name,) in tables)
        return self._number(f"SELECT sum(number) FROM ({counts}) AS counted")

    def _logged(self) -> int:
        return self._number("SELECT pg_current_wal_insert_lsn() - '0/0'")

    def _number(self, select: str) -> int:
        ((number,),) = execute(self._database, select)
        return int(str(number))


def _tables_of(schema: str) -> str:
    """The tables of a schema with rows of their own, for FROM."""
    return f"(SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = '{schema}'::regnamespace) AS tables"
