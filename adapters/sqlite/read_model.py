"""Read models in one SQLite file: a table for each projection and generation.

Promise: rows and checkpoint are stored in one transaction, and a reader sees one complete generation.
Refusal: it knows no events and opens no sealed value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from adapters.sqlite.damaged_text import fetched
from adapters.sqlite.database import Connection, Database, checked_values, migration_files
from adapters.sqlite.generations import (
    CURRENT,
    GENERATION,
    SqliteGenerations,
    find,
    find_number,
    generation_of,
    removed,
    table_of,
    unusual,
)
from domain.kernel.errors import PartUnavailable
from domain.kernel.events import Position
from domain.kernel.history import History, other_bytes
from domain.kernel.ports.read_model import Generation, Parked
from domain.kernel.projection import (
    Delete,
    Key,
    Merged,
    Operation,
    Projection,
    Put,
    Shape,
    Value,
    key_bounds,
    merged,
    unusual_columns,
)

T = TypeVar("T")

_VARIABLES = 7_000
"""The values of one statement, at most."""


class SqliteReadModel(SqliteGenerations):
    def __init__(self, path: Path) -> None:
        # Derived: a power cut may lose the last commits, rows and checkpoint together; the projector repeats them.
        steps = migration_files("read_model")
        self._database = Database(path, part="read models", migrations=steps, derived=True)
        self.schema_version = len(steps)
        self._known_columns: dict[tuple[str, int], set[str]] = {}

    def apply(
        self,
        projection: Projection,
        generation: Generation,
        operations: Sequence[Operation] | Merged,
        *,
        reached: History,
        events: int,
        parked: Sequence[Parked] = (),
    ) -> Generation | None:
        values = (reached.position, reached.to_bytes(), events)
        return self._advance(projection, generation, operations, values, parked=parked)

    def change_parked(
        self,
        projection: Projection,
        generation: Generation,
        operations: Sequence[Operation],
        *,
        removed: Sequence[Position],
        parked: Sequence[Parked] = (),
    ) -> Generation | None:
        values = (generation.checkpoint, other_bytes(generation.marks), 0)
        return self._advance(projection, generation, operations, values, removed=removed, parked=parked)

    def _advance(
        self,
        projection: Projection,
        generation: Generation,
        operations: Sequence[Operation] | Merged,
        values: tuple[Position, bytes, int],
        *,
        removed: Sequence[Position] = (),
        parked: Sequence[Parked],
    ) -> Generation | None:
        """Set checkpoint and marks to `values`, add to the number of events, and store the rest with it."""
        statements = [
            statement
            for shape, rows in merged(projection, operations).items()
            for statement in _statements(projection, generation.number, shape, rows)
        ]
        own = (projection.name, generation.number)
        with self._database.writing() as connection:
            # The checkpoint is the fence between projectors: only the one that continues from it may apply.
            moved = connection.execute(
                f"""UPDATE generations SET checkpoint = ?, marks = ?, events = events + ?
                    WHERE projection = ? AND number = ? AND state = ? AND checkpoint = ? AND marks = ?
                    RETURNING {GENERATION}""",
                (*values, *own, generation.state.value, generation.checkpoint, generation.marks),
            ).fetchall()
            if not moved:
                return None
            with checked_values():
                for statement, bound in statements:
                    connection.execute(statement, bound)
            connection.executemany(
                "DELETE FROM parked WHERE projection = ? AND generation = ? AND position = ?",
                [(*own, position) for position in removed],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO parked VALUES(?, ?, ?, ?, ?)",
                [(*own, p.position, p.stream, p.error) for p in parked],
            )
            return generation_of(moved[0])

    def parked(self, projection: Projection, generation: Generation) -> list[Parked]:
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(
                "SELECT position, stream, error FROM parked WHERE projection = ? AND generation = ? ORDER BY position",
                (projection.name, generation.number),
            ).fetchall()
        return [Parked(*row) for row in rows]

    def rows(
        self,
        projection: Projection,
        *,
        keys: Sequence[Key] | None = None,
        after: Key | None = None,
        prefix: str = "",
        where: Mapping[str, Value] | None = None,
        limit: int | None = None,
        generation: Generation | None = None,
    ) -> list[dict[str, Value]]:
        found: list[Any]
        # Find and read the table in one transaction: otherwise a rebuild may remove it in between.
        with self._database.reading() as connection, connection:
            number = _number_to_read(connection, projection, generation)
            names = [projection.key, *projection.columns]
            types = {projection.key: projection.key_type, **projection.columns}
            texts = [name for name in names if types[name] == "TEXT"]
            read = partial(fetched, connection, columns=names, texts=texts)
            select = f"SELECT {', '.join(names)} FROM {self._source(connection, projection, number)}"
            if keys is not None:
                found = []
                for some in _parts(sorted(set(keys)), _VARIABLES):
                    marks = ", ".join("?" * len(some))
                    statement = f"{select} WHERE {projection.key} IN ({marks}) ORDER BY {projection.key}"
                    found += read(statement, some)
            else:
                filtered = where or {}
                wanted = {f"{name} = ?": value for name, value in filtered.items()}
                bounds = key_bounds(after, prefix)
                wanted |= {f"{projection.key} {operator} ?": bound for operator, bound in bounds.items()}
                indexed = [unusual(projection, name) for name in unusual_columns(projection, filtered)]
                found = read(
                    f"{select} WHERE {' AND '.join([*wanted, *indexed]) or 'TRUE'} ORDER BY {projection.key} LIMIT ?",
                    (*wanted.values(), -1 if limit is None else limit),
                )
        return [dict(zip(names, row, strict=True)) for row in found]

    def count(
        self, projection: Projection, *, prefix: str = "", limit: int, generation: Generation | None = None
    ) -> int:
        bounds = key_bounds(None, prefix)
        wanted = [f"{projection.key} {operator} ?" for operator in bounds]
        with self._database.reading() as connection, connection:
            table = table_of(projection, _number_to_read(connection, projection, generation))
            found: Any = connection.execute(
                f"SELECT count() FROM (SELECT 1 FROM {table} WHERE {' AND '.join(wanted) or 'TRUE'} LIMIT ?)",
                (*bounds.values(), limit),
            ).get
        return int(found)

    def _source(self, connection: Connection, projection: Projection, number: int) -> str:
        """The table of a generation; with null for each column of present code that it does not have."""
        table = table_of(projection, number)
        missing = projection.columns.keys() - self._columns(connection, projection, number)
        nulls = ", ".join(f"NULL AS {name}" for name in missing)
        return f"(SELECT *, {nulls} FROM {table})" if missing else table

    def system_id(self) -> UUID | None:
        return self._database.system_id()

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None = None) -> UUID:
        return self._database.claim_system(system_id, instead_of=instead_of)

    def close(self) -> None:
        self._database.close()


def _number_to_read(connection: Connection, projection: Projection, given: Generation | None) -> int:
    if given is None:
        current = find(connection, projection, CURRENT)
        if current is None:
            raise PartUnavailable("read models", f"the projection {projection.name} was never filled")
        return current.number
    if find_number(connection, projection, given.number) is None:
        raise removed(projection, given)
    return given.number


def _statements(
    projection: Projection, number: int, shape: Shape, rows: Sequence[tuple[Value, ...]]
) -> Iterator[tuple[str, list[Value]]]:
    """Statements of many rows each, with their values.

    Many, because a thread that runs a statement lets the others go on, and then waits for them: a rebuild translates
    the next events meanwhile.
    """
    for some in _parts(rows, max(_VARIABLES // len(rows[0]), 1)):
        yield _statement(projection, number, shape, len(some)), [*chain.from_iterable(some)]


def _statement(projection: Projection, number: int, shape: Shape, rows: int) -> str:
    table, key = table_of(projection, number), projection.key
    given = [*shape.columns, *shape.added, key]
    values = ",".join([f"({','.join('?' * len(given))})"] * rows)
    if shape.kind is Delete:
        return f"DELETE FROM {table} WHERE {key} IN (VALUES{values})"
    if shape.kind is Put:
        return f"INSERT OR REPLACE INTO {table}({', '.join(given)}) VALUES{values}"
    changes = [f"{name} = new.{name}" for name in shape.columns]
    changes += [f"{name} = coalesce({table}.{name}, 0) + new.{name}" for name in shape.added]
    return (
        f"WITH new({', '.join(given)}) AS (VALUES{values})"
        f" UPDATE {table} SET {', '.join(changes)} FROM new WHERE {table}.{key} = new.{key}"
    )


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
