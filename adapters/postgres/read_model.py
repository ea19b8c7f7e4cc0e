"""Read models in one schema of PostgreSQL: a table for each projection and generation.

Promise: rows and checkpoint are stored in one transaction, and a reader sees one complete generation.
Refusal: it knows no events and opens no sealed value.

`apply` does not wait for the disk (`synchronous_commit` off). A crash of the server may lose the last commits,
rows and checkpoint together, and the projector repeats them. Changes of generations are durable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from adapters.postgres.connection import Connection
from adapters.postgres.database import Database, Name, TableMissing, migration_files, one
from adapters.postgres.text import decoded, decoded_key, encoded, encoded_key, encoded_text
from domain.kernel.errors import PartUnavailable
from domain.kernel.history import History
from domain.kernel.ports.read_model import Generation, GenerationState, Parked
from domain.kernel.projection import Delete, Key, Operation, Projection, Put, Shape, Value, merged

T = TypeVar("T")

_TYPES = {"INTEGER": "bigint", "TEXT": "text"}
_KEY_TYPES = {"INTEGER": "bigint", "TEXT": 'text COLLATE "C"'}  # "C" orders text by code point
_NAME_BYTES = 63
_READ_TRIES = 10
_DROP_WAIT_MS = 1_000
"""The time that a rebuild waits for readers of the generations that it removes. Queries behind it wait as long."""
_GENERATION = "projection, number, state, checkpoint, events, started_at_us, finished_at_us, marks"
_FIND = "SELECT " + _GENERATION + " FROM {schema}.generations WHERE projection = %s AND state = %s"
_ADVANCE = """
    UPDATE {schema}.generations SET checkpoint = %s, marks = %s, events = events + %s
    WHERE projection = %s AND number = %s AND state = %s AND checkpoint = %s AND marks = %s
    RETURNING """
_PARK = """
    INSERT INTO {schema}.parked VALUES(%s, %s, %s, %s, %s)
    ON CONFLICT (projection, generation, position) DO UPDATE SET stream = excluded.stream, error = excluded.error"""


class PostgresReadModel:
    def __init__(self, url: str) -> None:
        steps = migration_files("read_model")
        self._database = Database(url, part="read models", migrations=steps, derived=True)
        self.schema_version = len(steps)
        self._until_found = Retrying(
            retry=retry_if_exception_type(TableMissing), stop=stop_after_attempt(_READ_TRIES), reraise=True
        )

    def prepare(self, projection: Projection, *, now_us: int) -> Generation:
        current = self._database.read(lambda c: self._find(c, projection, GenerationState.CURRENT))
        if current is not None:
            return current
        return self._exclusively(
            projection,
            lambda c: (
                self._find(c, projection, GenerationState.CURRENT)
                or self._create(c, projection, GenerationState.CURRENT, now_us)
            ),
        )

    def generations(self, projection: Projection) -> list[Generation]:
        select = f"SELECT {_GENERATION} FROM {{schema}}.generations WHERE projection = %s ORDER BY number"
        return [_generation(row) for row in self._all(select, (projection.name,))]

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
        own = (projection.name, generation.number)
        fence = (
            reached.position,
            reached.to_bytes(),
            events,
            *own,
            generation.state.value,
            generation.checkpoint,
            generation.marks,
        )
        statements = [
            (self._statement(projection, generation.number, shape), _by_column(projection, shape, rows))
            for shape, rows in merged(projection, operations).items()
        ]
        parking = [(*own, p.position, encoded_text(p.stream), encoded_text(p.error)) for p in parked]

        def advance(connection: Connection) -> Generation | None:
            # The checkpoint is the fence between projectors: only the one that continues from it may apply.
            moved = connection.execute(self._database.sql(_ADVANCE) + _GENERATION, fence).fetchone()
            if moved is None:
                return None
            for statement, columns in statements:
                connection.execute(statement, columns)
            if parking:
                connection.cursor().executemany(self._database.sql(_PARK), parking)
            return _generation(moved)

        return self._database.write(advance)

    def begin_rebuild(
        self, projection: Projection, *, now_us: int, instead_of: Generation | None = None
    ) -> Generation:
        def begin(connection: Connection) -> Generation:
            unfinished = self._find(connection, projection, GenerationState.BUILDING)
            if unfinished is not None:
                if instead_of is None or unfinished.number != instead_of.number:
                    return unfinished
                retire = self._database.sql(
                    "UPDATE {schema}.generations SET state = %s WHERE projection = %s AND number = %s"
                )
                connection.execute(
                    retire, (GenerationState.RETIRED.value, projection.name, unfinished.number)
                )
            retired = connection.execute(
                self._database.sql(
                    "DELETE FROM {schema}.generations WHERE projection = %s AND state = %s RETURNING number"
                ),
                (projection.name, GenerationState.RETIRED.value),
            ).fetchall()
            wait_for_readers = "SELECT set_config('lock_timeout', %s, true)"
            connection.execute(wait_for_readers, (f"{_DROP_WAIT_MS}ms",))
            for (number,) in retired:
                # A reader looks up the table's name, then queries the table. If the table is missing by then, the
                # reader looks up the name again.
                connection.execute(self._sql("DROP TABLE {table}", projection, number))
            return self._create(connection, projection, GenerationState.BUILDING, now_us)

        return self._exclusively(projection, begin)

    def promote(
        self, projection: Projection, generation: Generation, *, now_us: int, other_history: bool = False
    ) -> bool:
        def switch(connection: Connection) -> bool:
            # Lock the rows: otherwise a projector may advance the current generation after its checkpoint is read.
            live: dict[str, tuple[int, int]] = {
                state: (number, checkpoint)
                for state, number, checkpoint in connection.execute(
                    self._database.sql(
                        """SELECT state, number, checkpoint FROM {schema}.generations
                           WHERE projection = %s AND state <> 'retired' ORDER BY number FOR UPDATE"""
                    ),
                    (projection.name,),
                )
            }
            built = live.get(GenerationState.BUILDING)
            current = live.get(GenerationState.CURRENT, (0, 0))
            if built is None or built[0] != generation.number:
                return False
            if built[1] < current[1] and not other_history:
                return False
            change = self._database.sql(
                """UPDATE {schema}.generations SET state = %s, finished_at_us = coalesce(%s, finished_at_us)
                   WHERE projection = %s AND number = %s"""
            )
            connection.execute(change, (GenerationState.RETIRED, None, projection.name, current[0]))
            connection.execute(change, (GenerationState.CURRENT, now_us, projection.name, built[0]))
            return True

        return self._exclusively(projection, switch)

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
        where: Mapping[str, Value] | None = None,
        limit: int | None = None,
        generation: Generation | None = None,
    ) -> list[dict[str, Value]]:
        names = [projection.key, *projection.columns]
        wanted = {name: encoded(value) for name, value in (where or {}).items()}
        selection, arguments = _selection(projection, keys, after, wanted, limit)
        select = "SELECT {names} FROM {table} WHERE " + selection

        def read(connection: Connection) -> list[tuple[Any, ...]]:
            found = generation or self._find(connection, projection, GenerationState.CURRENT)
            if found is None:
                raise PartUnavailable("read models", f"the projection {projection.name} was never filled")
            statement = self._sql(select, projection, found.number, names=[*names], wanted=[*wanted])
            # One statement sees one state. A generation that was retired meanwhile is still complete. If it was
            # removed, the next try reads its successor.
            return connection.execute(statement, arguments).fetchall()

        found = self._database.read(read) if generation else self._until_found(self._database.read, read)
        return [dict(zip(names, (decoded_key(key), *map(decoded, row)), strict=True)) for key, *row in found]

    def system_id(self) -> UUID | None:
        return self._database.system_id()

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None = None) -> UUID:
        return self._database.claim_system(system_id, instead_of=instead_of)

    def close(self) -> None:
        self._database.close()

    # --- generations ---------------------------------------------------------------------------

    def _exclusively(self, projection: Projection, work: Callable[[Connection], T]) -> T:
        """Run a transaction while no other one adds, removes or promotes generations of the projection."""

        def locked(connection: Connection) -> T:
            lock = self._database.sql(
                """INSERT INTO {schema}.projections AS p VALUES(%s, 0)
                   ON CONFLICT (name) DO UPDATE SET last_generation = p.last_generation"""
            )
            connection.execute(lock, (projection.name,))
            return work(connection)

        return self._database.write(locked, durable=True)

    def _create(
        self, connection: Connection, projection: Projection, state: GenerationState, now_us: int
    ) -> Generation:
        number = one(
            connection,
            self._database.sql(
                """UPDATE {schema}.projections SET last_generation = last_generation + 1
                   WHERE name = %s RETURNING last_generation"""
            ),
            projection.name,
        )
        create = f"CREATE TABLE {{table}}({{key}} {_KEY_TYPES[projection.key_type]} PRIMARY KEY)"
        connection.execute(self._sql(create, projection, number))
        for column, type_ in projection.columns.items():
            add = "ALTER TABLE {table} ADD {column} " + _TYPES[type_]
            connection.execute(self._sql(add, projection, number, column=column))
        insert = "INSERT INTO {schema}.generations VALUES(%s, %s, %s, 0, 0, %s, NULL, '')"
        connection.execute(self._database.sql(insert), (projection.name, number, state.value, now_us))
        return Generation(projection.name, number, state, 0, 0, now_us, None)

    def _find(
        self, connection: Connection, projection: Projection, state: GenerationState
    ) -> Generation | None:
        row = connection.execute(self._database.sql(_FIND), (projection.name, state.value)).fetchone()
        return None if row is None else _generation(row)

    def _all(self, template: str, arguments: Sequence[object]) -> list[tuple[Any, ...]]:
        statement = self._database.sql(template)
        return self._database.read(lambda connection: connection.execute(statement, arguments).fetchall())

    # --- rows ----------------------------------------------------------------------------------

    def _sql(self, template: str, projection: Projection, number: int, **names: Name | list[Name]) -> str:
        """A statement that uses the `{table}` of a generation and its `{key}`."""
        table = f"{projection.name}_g{number}"
        if len(table.encode()) > _NAME_BYTES:
            # PostgreSQL cuts names: two tables could get the same one.
            raise ValueError(f"{table} is too long for the name of a table")
        return self._database.sql(template, table=(self._database.schema, table), key=projection.key, **names)

    def _statement(self, projection: Projection, number: int, shape: Shape) -> str:
        """The statement for all rows of a shape. Its arguments are their values, column by column."""
        types = [*_types(projection, shape), _TYPES[projection.key_type]]
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


def _selection(
    projection: Projection,
    keys: Sequence[Key] | None,
    after: Key | None,
    wanted: Mapping[str, Value],
    limit: int | None,
) -> tuple[str, list[Any]]:
    """The condition, order and limit of a query, with its arguments."""
    if keys is not None:
        type_ = _TYPES[projection.key_type]
        return f"{{key}} = ANY(%b::{type_}[]) ORDER BY {{key}}", [[encoded_key(key) for key in keys]]
    conditions, arguments = [], [*wanted.values()]
    if wanted:
        marks = ", ".join(f"%s::{_type(projection, name)}" for name in wanted)
        conditions.append(f"ROW({{wanted}}) = ROW({marks})")
    if after is not None:
        conditions.append("{key} > %s")
        arguments.append(encoded_key(after))
    return f"{' AND '.join(conditions) or 'TRUE'} ORDER BY {{key}} LIMIT %s", [*arguments, limit]


def _types(projection: Projection, shape: Shape) -> list[str]:
    return [_type(projection, name) for name in (*shape.columns, *shape.added)]


def _by_column(projection: Projection, shape: Shape, rows: Sequence[tuple[Value, ...]]) -> list[list[Value]]:
    """The values of rows as one list per column, the keys last."""
    *columns, keys = zip(*rows, strict=True)
    return [*([encoded(value) for value in column] for column in columns), [encoded_key(key) for key in keys]]


def _type(projection: Projection, column: str) -> str:
    """The type of a column. PostgreSQL refuses a column that does not exist."""
    return _TYPES[projection.columns.get(column, "TEXT")]


def _generation(row: Sequence[Any]) -> Generation:
    projection, number, state, *others = row
    return Generation(projection, number, GenerationState(state), *others)
