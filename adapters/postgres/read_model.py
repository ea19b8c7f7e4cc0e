"""Read models in one schema of PostgreSQL: a table for each projection and generation.

Promise: rows and checkpoint are stored in one transaction, and a reader sees one complete generation.
Refusal: it knows no events and opens no sealed value.

`apply` does not wait for the disk (`synchronous_commit` off). A crash of the server may lose the last commits,
rows and checkpoint together, and the projector repeats them. Changes of generations are durable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from adapters.postgres import copying
from adapters.postgres.connection import Connection
from adapters.postgres.database import Database, Name, TableMissing, migration_files
from adapters.postgres.generations import CURRENT, GENERATION, PostgresGenerations, generation_of
from adapters.postgres.selecting import TYPES, column_type, selection_of, within
from adapters.postgres.text import decoded, decoded_key, encoded, encoded_key, encoded_text
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
)

_READ_TRIES = 10
_ADVANCE = """
    UPDATE {schema}.generations SET checkpoint = %s, marks = %s, events = events + %s
    WHERE projection = %s AND number = %s AND state = %s AND checkpoint = %s AND marks = %s
    RETURNING """
_PARK = """
    INSERT INTO {schema}.parked VALUES(%s, %s, %s, %s, %s)
    ON CONFLICT (projection, generation, position) DO UPDATE SET stream = excluded.stream, error = excluded.error"""
_UNPARK = (
    "DELETE FROM {schema}.parked WHERE projection = %s AND generation = %s AND position = ANY(%b::bigint[])"
)


class PostgresReadModel(PostgresGenerations):
    def __init__(self, url: str) -> None:
        steps = migration_files("read_model")
        self._database = Database(url, part="read models", migrations=steps, derived=True)
        self.schema_version = len(steps)
        self._known_columns: dict[tuple[str, int], set[str]] = {}
        self._indexed: set[tuple[str, int]] = set()
        self._until_found = Retrying(
            retry=retry_if_exception_type(TableMissing), stop=stop_after_attempt(_READ_TRIES), reraise=True
        )

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
        own = (projection.name, generation.number)
        fence = (*values, *own, generation.state.value, generation.checkpoint, generation.marks)
        batches = [
            (shape, _by_column(projection, shape, rows))
            for shape, rows in merged(projection, operations).items()
        ]
        parking = [(*own, p.position, encoded_text(p.stream), encoded_text(p.error)) for p in parked]

        def advance(connection: Connection) -> Generation | None:
            # The checkpoint is the fence between projectors: only the one that continues from it may apply.
            moved = connection.execute(self._database.sql(_ADVANCE) + GENERATION, fence).fetchone()
            if moved is None:
                return None
            for shape, columns in batches:
                if shape.kind is Put and len(columns[-1]) >= copying.MANY:
                    columns = self._copy(connection, projection, generation.number, shape, columns)
                if columns[-1]:
                    connection.execute(self._statement(projection, generation.number, shape), columns)
            if removed:
                connection.execute(self._database.sql(_UNPARK), (*own, [*removed]))
            if parking:
                connection.cursor().executemany(self._database.sql(_PARK), parking)
            return generation_of(moved)

        is_large = any(len(columns[-1]) >= copying.MANY for _, columns in batches)
        return self._database.write(advance, pipelined=not is_large)

    def adopt(
        self, projection: Projection, generation: Generation, *, code: str, now_us: int
    ) -> Generation | None:
        def adopt(connection: Connection) -> Generation | None:
            (current,) = [e for e in self._locked(connection, projection) if e.state is CURRENT]
            if (current.number, current.code) != (generation.number, generation.code):
                return None
            adopted = replace(current, code=current.adopted_by(code))
            change = "UPDATE {schema}.generations SET code = %s WHERE projection = %s AND number = %s"
            values = (adopted.code, projection.name, adopted.number)
            connection.execute(self._database.sql(change), values)
            self._end_phase(connection, current, now_us)
            self._begin_phase(connection, adopted, CURRENT, adopted.why, now_us)
            return adopted

        return self._exclusively(projection, adopt)

    def columns(self, projection: Projection, generation: Generation) -> set[str]:
        return self._database.read(lambda c: self._columns(c, projection, generation.number))

    def parked(self, projection: Projection, generation: Generation) -> list[Parked]:
        select = """SELECT position, stream, error FROM {schema}.parked
            WHERE projection = %s AND generation = %s ORDER BY position"""
        rows = self._all(select, (projection.name, generation.number))
        return [Parked(position, decoded(stream), decoded(error)) for position, stream, error in rows]

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
        names = [projection.key, *projection.columns]
        wanted = {name: encoded(value) for name, value in (where or {}).items()}
        selection, arguments = selection_of(projection, keys, key_bounds(after, prefix), wanted, limit)
        select = "SELECT {names} FROM {table} WHERE " + selection
        found = self._select(
            select, arguments, projection, generation=generation, names=[*names], wanted=[*wanted]
        )
        return [dict(zip(names, (decoded_key(key), *map(decoded, row)), strict=True)) for key, *row in found]

    def count(
        self, projection: Projection, *, prefix: str = "", limit: int, generation: Generation | None = None
    ) -> int:
        condition, arguments = within(key_bounds(None, prefix))
        select = "SELECT count(*) FROM (SELECT 1 FROM {table} WHERE " + condition + " LIMIT %s) AS found"
        ((found,),) = self._select(select, [*arguments, limit], projection, generation)
        return int(found)

    def _select(
        self,
        template: str,
        arguments: Sequence[object],
        projection: Projection,
        generation: Generation | None = None,
        **names: Name | list[Name],
    ) -> list[tuple[Any, ...]]:
        """Read from the table of a generation, or of the current one."""

        def read(connection: Connection) -> list[tuple[Any, ...]]:
            found = generation or self._find(connection, projection, CURRENT)
            if found is None:
                raise PartUnavailable("read models", f"the projection {projection.name} was never filled")
            source = self._source(connection, projection, found.number)
            statement = self._sql(template.replace("{table}", source), projection, found.number, **names)
            # One statement sees one state. A generation that was retired meanwhile is still complete. If it was
            # removed, the next try reads its successor.
            return connection.execute(statement, arguments).fetchall()

        return self._database.read(read) if generation else self._until_found(self._database.read, read)

    def _source(self, connection: Connection, projection: Projection, number: int) -> str:
        """The table of a generation; with null for each column of present code that it does not have."""
        missing = [*(projection.columns.keys() - self._columns(connection, projection, number))]
        if not missing:
            return "{table}"
        nulls = ", ".join(
            f"NULL::{TYPES[projection.columns[name]]} AS {self._database.sql('{name}', name=name)}"
            for name in missing
        )
        return f"(SELECT *, {nulls} FROM {{table}}) AS present"

    def system_id(self) -> UUID | None:
        return self._database.system_id()

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None = None) -> UUID:
        return self._database.claim_system(system_id, instead_of=instead_of)

    def close(self) -> None:
        self._database.close()

    # --- rows ----------------------------------------------------------------------------------

    def _copy(
        self,
        connection: Connection,
        projection: Projection,
        number: int,
        shape: Shape,
        columns: list[list[Value]],
    ) -> list[list[Value]]:
        """Copy the new rows among those to put; return the columns of the others.

        The checkpoint's row is locked, so no other projector adds rows meanwhile.
        """
        types = [*_types(projection, shape), TYPES[projection.key_type]]
        if not copying.can_be_copied(types, columns):
            return columns
        find = f"SELECT {{key}} FROM {{table}} WHERE {{key}} = ANY(%b::{types[-1]}[])"
        found = connection.execute(self._sql(find, projection, number), (columns[-1],)).fetchall()
        known = {key for (key,) in found}
        rows = [*zip(*columns, strict=True)]
        given: list[Name] = [*shape.columns, projection.key]
        into = "COPY {table}({given}) FROM STDIN (FORMAT binary)"
        copying.copy(
            connection,
            self._sql(into, projection, number, given=given),
            types,
            [row for row in rows if row[-1] not in known] if known else rows,
        )
        others = [row for row in rows if row[-1] in known] if known else []
        return [[row[place] for row in others] for place in range(len(types))]

    def _statement(self, projection: Projection, number: int, shape: Shape) -> str:
        """The statement for all rows of a shape. Its arguments are their values, column by column."""
        types = [*_types(projection, shape), TYPES[projection.key_type]]
        new = "unnest(" + ", ".join(f"%b::{type_}[]" for type_ in types) + ") AS new({given})"
        names: dict[str, Name | list[Name]] = {"given": [*shape.columns, *shape.added, projection.key]}
        if shape.kind is Delete:
            template = "DELETE FROM {table} WHERE {key} = ANY(%b::" + types[0] + "[])"
        elif shape.kind is Put:
            names["changed"] = [*projection.columns]
            names["values"] = [("excluded", name) for name in projection.columns]  # null unless given
            update = "UPDATE SET ({changed}) = ROW({values})" if projection.columns else "NOTHING"
            template = f"""INSERT INTO {{table}}({{given}}) SELECT * FROM {new}
                ON CONFLICT ({{key}}) DO {update}"""
        else:
            changes = []
            for index, name in enumerate((*shape.columns, *shape.added)):
                names[f"c{index}"] = name
                old = f"coalesce(old.{{c{index}}}, 0) + " if name in shape.added else ""
                changes.append(f"{{c{index}}} = {old}new.{{c{index}}}")
            template = f"""UPDATE {{table}} AS old SET {", ".join(changes)}
                FROM {new} WHERE old.{{key}} = new.{{key}}"""
        return self._sql(template, projection, number, **names)


def _types(projection: Projection, shape: Shape) -> list[str]:
    return [column_type(projection, name) for name in (*shape.columns, *shape.added)]


def _by_column(projection: Projection, shape: Shape, rows: Sequence[tuple[Value, ...]]) -> list[list[Value]]:
    """The values of rows as one list per column, the keys last."""
    *columns, keys = zip(*rows, strict=True)
    return [*([encoded(value) for value in column] for column in columns), [encoded_key(key) for key in keys]]
