"""Read models in one SQLite file: a table for each projection and generation.

Promise: rows and checkpoint are stored in one transaction, and a reader sees one complete generation.
Refusal: it knows no events and opens no sealed value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.sqlite.database import Connection, Database, checked_values, migration_files
from domain.kernel.errors import PartUnavailable
from domain.kernel.history import History
from domain.kernel.ports.read_model import Generation, GenerationState, Parked
from domain.kernel.projection import Delete, Key, Operation, Projection, Put, Shape, Value, merged

_GENERATION = "projection, number, state, checkpoint, events, started_at_us, finished_at_us, marks"


class SqliteReadModel:
    def __init__(self, path: Path) -> None:
        # Derived: a power cut may lose the last commits, rows and checkpoint together; the projector repeats them.
        steps = migration_files("read_model")
        self._database = Database(path, part="read models", migrations=steps, derived=True)
        self.schema_version = len(steps)

    def prepare(self, projection: Projection, *, now_us: int) -> Generation:
        with self._database.reading() as connection:
            current = _find(connection, projection, GenerationState.CURRENT)
        if current is not None:
            return current
        with self._database.writing() as connection:
            if _find(connection, projection, GenerationState.CURRENT) is None:
                number = _next_number(connection, projection)
                _create(connection, projection, number, GenerationState.CURRENT, now_us)
            return _must_find(connection, projection, GenerationState.CURRENT)

    def generations(self, projection: Projection) -> list[Generation]:
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT {_GENERATION} FROM generations WHERE projection = ? ORDER BY number",
                (projection.name,),
            ).fetchall()
        return [_generation(row) for row in rows]

    def apply(
        self,
        projection: Projection,
        generation: Generation,
        operations: Sequence[Operation],
        *,
        reached: History,
        events: int,
        parked: Sequence[Parked] = (),
    ) -> Generation | None:
        statements = [
            (_statement(projection, generation.number, shape), rows)
            for shape, rows in merged(projection, operations).items()
        ]
        with self._database.writing() as connection:
            # The checkpoint is the fence between projectors: only the one that continues from it may apply.
            moved = connection.execute(
                f"""UPDATE generations SET checkpoint = ?, marks = ?, events = events + ?
                    WHERE projection = ? AND number = ? AND state = ? AND checkpoint = ? AND marks = ?
                    RETURNING {_GENERATION}""",
                (
                    reached.position,
                    reached.to_bytes(),
                    events,
                    projection.name,
                    generation.number,
                    generation.state.value,
                    generation.checkpoint,
                    generation.marks,
                ),
            ).fetchall()
            if not moved:
                return None
            with checked_values():
                for statement, rows in statements:
                    connection.executemany(statement, rows)
            connection.executemany(
                "INSERT OR REPLACE INTO parked VALUES(?, ?, ?, ?, ?)",
                [(projection.name, generation.number, p.position, p.stream, p.error) for p in parked],
            )
            return _generation(moved[0])

    def begin_rebuild(
        self, projection: Projection, *, now_us: int, instead_of: Generation | None = None
    ) -> Generation:
        with self._database.writing() as connection:
            unfinished = _find(connection, projection, GenerationState.BUILDING)
            if unfinished is not None:
                if instead_of is None or unfinished.number != instead_of.number:
                    return unfinished
                _set_state(connection, unfinished, GenerationState.RETIRED)
            # Before the removal: a number is never used twice.
            number = _next_number(connection, projection)
            retired: list[Any] = connection.execute(
                "SELECT number FROM generations WHERE projection = ? AND state = 'retired'",
                (projection.name,),
            ).fetchall()
            for (old,) in retired:
                connection.execute(f"DROP TABLE {_table(projection, old)}")
                for table, column in (("generations", "number"), ("parked", "generation")):
                    connection.execute(
                        f"DELETE FROM {table} WHERE projection = ? AND {column} = ?",
                        (projection.name, old),
                    )
            _create(connection, projection, number, GenerationState.BUILDING, now_us)
            return _must_find(connection, projection, GenerationState.BUILDING)

    def promote(
        self, projection: Projection, generation: Generation, *, now_us: int, other_history: bool = False
    ) -> bool:
        with self._database.writing() as connection:
            built = _find(connection, projection, GenerationState.BUILDING)
            current = _must_find(connection, projection, GenerationState.CURRENT)
            if built is None or built.number != generation.number:
                return False
            if built.checkpoint < current.checkpoint and not other_history:
                return False
            _set_state(connection, current, GenerationState.RETIRED)
            _set_state(connection, built, GenerationState.CURRENT)
            connection.execute(
                "UPDATE generations SET finished_at_us = ? WHERE projection = ? AND number = ?",
                (now_us, projection.name, built.number),
            )
            return True

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
        where: Mapping[str, Value] | None = None,
        limit: int | None = None,
        generation: Generation | None = None,
    ) -> list[dict[str, Value]]:
        found: list[Any]
        # Find and read the table in one transaction: otherwise a rebuild may remove it in between.
        with self._database.reading() as connection, connection:
            table = _table(projection, _number_to_read(connection, projection, generation))
            names = [projection.key, *projection.columns]
            select = f"SELECT {', '.join(names)} FROM {table}"
            if keys is not None:
                statement = f"{select} WHERE {projection.key} = ?"
                rows = (connection.execute(statement, (key,)).fetchone() for key in _in_order(keys))
                found = [row for row in rows if row is not None]
            else:
                wanted = {f"{name} = ?": value for name, value in (where or {}).items()}
                if after is not None:
                    wanted[f"{projection.key} > ?"] = after
                found = connection.execute(
                    f"{select} WHERE {' AND '.join(wanted) or 'TRUE'} ORDER BY {projection.key} LIMIT ?",
                    (*wanted.values(), -1 if limit is None else limit),
                ).fetchall()
        return [dict(zip(names, row, strict=True)) for row in found]

    def system_id(self) -> UUID | None:
        return self._database.system_id()

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None = None) -> UUID:
        return self._database.claim_system(system_id, instead_of=instead_of)

    def close(self) -> None:
        self._database.close()


def _table(projection: Projection, number: int) -> str:
    return f"{projection.name}_g{number}"


def _next_number(connection: Connection, projection: Projection) -> int:
    number: Any = connection.execute(
        "SELECT coalesce(max(number), 0) + 1 FROM generations WHERE projection = ?", (projection.name,)
    ).get
    return int(number)


def _create(
    connection: Connection, projection: Projection, number: int, state: GenerationState, now_us: int
) -> None:
    columns = "".join(f", {name} {type_}" for name, type_ in projection.columns.items())
    # A whole-number key is SQLite's row id itself. Beside a text key the row id would be a second key.
    options = "STRICT" if projection.key_type == "INTEGER" else "STRICT, WITHOUT ROWID"
    connection.execute(
        f"CREATE TABLE {_table(projection, number)}"
        f"({projection.key} {projection.key_type} PRIMARY KEY{columns}) {options}"
    )
    connection.execute(
        "INSERT INTO generations VALUES(?, ?, ?, 0, 0, ?, NULL, x'')",
        (projection.name, number, state.value, now_us),
    )


def _find(connection: Connection, projection: Projection, state: GenerationState) -> Generation | None:
    row = connection.execute(
        f"SELECT {_GENERATION} FROM generations WHERE projection = ? AND state = ?",
        (projection.name, state.value),
    ).fetchone()
    return None if row is None else _generation(row)


def _number_to_read(connection: Connection, projection: Projection, given: Generation | None) -> int:
    if given is None:
        current = _find(connection, projection, GenerationState.CURRENT)
        if current is None:
            raise PartUnavailable("read models", f"the projection {projection.name} was never filled")
        return current.number
    exists = "SELECT count() FROM generations WHERE projection = ? AND number = ?"
    if not connection.execute(exists, (projection.name, given.number)).get:
        raise PartUnavailable("read models", f"generation {given.number} of {projection.name} was removed")
    return given.number


def _in_order(keys: Sequence[Key]) -> list[Any]:
    """Numbers by value, texts by code point, as SQLite orders them; each once."""
    return sorted(set(keys))


def _must_find(connection: Connection, projection: Projection, state: GenerationState) -> Generation:
    found = _find(connection, projection, state)
    assert found is not None
    return found


def _set_state(connection: Connection, generation: Generation, state: GenerationState) -> None:
    connection.execute(
        "UPDATE generations SET state = ? WHERE projection = ? AND number = ?",
        (state.value, generation.projection, generation.number),
    )


def _generation(row: Any) -> Generation:
    projection, number, state, *others = row
    return Generation(projection, number, GenerationState(state), *others)


def _statement(projection: Projection, number: int, shape: Shape) -> str:
    table = _table(projection, number)
    if shape.kind is Delete:
        return f"DELETE FROM {table} WHERE {projection.key} = ?"
    if shape.kind is Put:
        columns = ", ".join([*shape.columns, projection.key])
        marks = ", ".join("?" * (len(shape.columns) + 1))
        return f"INSERT OR REPLACE INTO {table}({columns}) VALUES({marks})"
    changes = [f"{name} = ?" for name in shape.columns]
    changes += [f"{name} = coalesce({name}, 0) + ?" for name in shape.added]
    return f"UPDATE {table} SET {', '.join(changes)} WHERE {projection.key} = ?"
