"""Read models in one schema of PostgreSQL: a table per projection and generation.

Promise: rows and checkpoint move together, and readers see one whole generation. Refusal: it knows
nothing of events and opens no sealed value.

Applying does not wait for the disk (`synchronous_commit` off): a crash of the server may lose the last
commits, rows and checkpoint together, and what is lost is projected again. Generations are durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from adapters.postgres.database import Connection, Database, Name, TableGone, one
from domain.kernel.errors import PartUnavailable
from domain.kernel.events import Position
from domain.kernel.ports.read_model import Generation, GenerationState, Parked
from domain.kernel.projection import Change, Operation, Projection, Put, Value

T = TypeVar("T")

# `last_generation` only grows, so that a number, and with it a table's name, is never used twice.
_MIGRATIONS = (
    """
    CREATE TABLE {schema}.projections(
        name text PRIMARY KEY,
        last_generation integer NOT NULL
    );
    CREATE TABLE {schema}.generations(
        projection text NOT NULL REFERENCES {schema}.projections,
        number integer NOT NULL,
        state text NOT NULL,
        checkpoint bigint NOT NULL,
        events bigint NOT NULL,
        started_at_us bigint NOT NULL,
        finished_at_us bigint,
        PRIMARY KEY (projection, number)
    );
    CREATE UNIQUE INDEX one_of_a_state ON {schema}.generations(projection, state) WHERE state <> 'retired';
    CREATE TABLE {schema}.parked(
        projection text NOT NULL,
        generation integer NOT NULL,
        position bigint NOT NULL,
        stream text NOT NULL,
        error text NOT NULL,
        PRIMARY KEY (projection, generation, position),
        FOREIGN KEY (projection, generation) REFERENCES {schema}.generations ON DELETE CASCADE
    );
    """,
)
_TYPES = {"INTEGER": "bigint", "TEXT": "text"}
_NAME_BYTES = 63
_LOOKS = 10
_DROP_WAIT_MS = 1_000
"""How long a rebuild waits for readers of the generations that it removes; whoever comes after it waits as long."""
_GENERATION = "projection, number, state, checkpoint, events, started_at_us, finished_at_us"
_FIND = "SELECT " + _GENERATION + " FROM {schema}.generations WHERE projection = %s AND state = %s"
_ADVANCE = """
    UPDATE {schema}.generations SET checkpoint = %s, events = events + %s
    WHERE projection = %s AND number = %s AND state = %s AND checkpoint = %s
    RETURNING """
_PARK = """
    INSERT INTO {schema}.parked VALUES(%s, %s, %s, %s, %s)
    ON CONFLICT (projection, generation, position) DO UPDATE SET stream = excluded.stream, error = excluded.error"""


class PostgresReadModel:
    def __init__(self, url: str) -> None:
        self._database = Database(url, part="read models", migrations=_MIGRATIONS, derived=True)
        self.schema_version = len(_MIGRATIONS)
        self._until_found = Retrying(
            retry=retry_if_exception_type(TableGone), stop=stop_after_attempt(_LOOKS), reraise=True
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
        checkpoint: Position,
        events: int,
        parked: Sequence[Parked] = (),
    ) -> Generation | None:
        own = (projection.name, generation.number)
        fence = (checkpoint, events, *own, generation.state.value, generation.checkpoint)
        statements = list(self._statements(projection, generation.number, operations))
        parking = [(*own, p.position, _text(p.stream), _text(p.error)) for p in parked]

        def advance(connection: Connection) -> Generation | None:
            # The checkpoint is the fence between projectors: only one that continues from it may go on.
            moved = connection.execute(self._database.sql(_ADVANCE) + _GENERATION, fence).fetchone()
            if moved is None:
                return None
            for statement, columns in statements:
                connection.execute(statement, columns)
            if parking:
                connection.cursor().executemany(self._database.sql(_PARK), parking)
            return _generation(moved)

        return self._database.write(advance)

    def begin_rebuild(self, projection: Projection, *, now_us: int) -> Generation:
        def begin(connection: Connection) -> Generation:
            unfinished = self._find(connection, projection, GenerationState.BUILDING)
            if unfinished is not None:
                return unfinished
            retired = connection.execute(
                self._database.sql(
                    "DELETE FROM {schema}.generations WHERE projection = %s AND state = %s RETURNING number"
                ),
                (projection.name, GenerationState.RETIRED.value),
            ).fetchall()
            wait_for_readers = "SELECT set_config('lock_timeout', %s, true)"
            connection.execute(wait_for_readers, (f"{_DROP_WAIT_MS}ms",))
            for (number,) in retired:
                # One who has only looked up its name finds it gone and looks again.
                connection.execute(self._sql("DROP TABLE {table}", projection, number))
            return self._create(connection, projection, GenerationState.BUILDING, now_us)

        return self._exclusively(projection, begin)

    def promote(self, projection: Projection, generation: Generation, *, now_us: int) -> bool:
        def flip(connection: Connection) -> bool:
            # Locked, so that the current one can't get ahead between the look and the flip.
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
            if built is None or built[0] != generation.number or built[1] < current[1]:
                return False
            change = self._database.sql(
                """UPDATE {schema}.generations SET state = %s, finished_at_us = coalesce(%s, finished_at_us)
                   WHERE projection = %s AND number = %s"""
            )
            connection.execute(change, (GenerationState.RETIRED, None, projection.name, current[0]))
            connection.execute(change, (GenerationState.CURRENT, now_us, projection.name, built[0]))
            return True

        return self._exclusively(projection, flip)

    def parked(self, projection: Projection, generation: Generation) -> list[Parked]:
        select = """SELECT position, stream, error FROM {schema}.parked
            WHERE projection = %s AND generation = %s ORDER BY position"""
        rows = self._all(select, (projection.name, generation.number))
        return [Parked(position, _plain(stream), _plain(error)) for position, stream, error in rows]

    def rows(
        self,
        projection: Projection,
        *,
        keys: Sequence[int] | None = None,
        after: int = 0,
        where: Mapping[str, Value] | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Value]]:
        names = [projection.key, *projection.columns]
        chosen = {name: _stored(value) for name, value in (where or {}).items()}
        arguments: Sequence[Any]
        if keys is not None:
            condition, arguments = "{key} = ANY(%b::bigint[]) ORDER BY {key}", [list(keys)]
        else:
            marks = ", ".join(f"%s::{_type(projection, name)}" for name in chosen)
            equal = f"AND ROW({{chosen}}) = ROW({marks})" if chosen else ""
            condition = f"{{key}} > %s {equal} ORDER BY {{key}} LIMIT %s"
            arguments = [after, *chosen.values(), limit]
        select = "SELECT {names} FROM {table} WHERE " + condition

        def look(connection: Connection) -> list[tuple[Any, ...]]:
            current = self._find(connection, projection, GenerationState.CURRENT)
            if current is None:
                raise PartUnavailable("read models", f"the projection {projection.name} was never filled")
            statement = self._sql(select, projection, current.number, names=[*names], chosen=[*chosen])
            # One statement sees one state. The generation may have been retired since it was looked up, and
            # is whole nevertheless; or removed, and then the next look finds its successor.
            return connection.execute(statement, arguments).fetchall()

        found = self._until_found(self._database.read, look)
        return [dict(zip(names, map(_plain, row), strict=True)) for row in found]

    def close(self) -> None:
        self._database.close()

    # --- generations ---------------------------------------------------------------------------

    def _exclusively(self, projection: Projection, work: Callable[[Connection], T]) -> T:
        """A transaction in which nobody else adds, removes or flips generations of the projection."""

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
        create = self._sql("CREATE TABLE {table}({key} bigint PRIMARY KEY)", projection, number)
        connection.execute(create)
        for column, type_ in projection.columns.items():
            add = "ALTER TABLE {table} ADD {column} " + _TYPES[type_]
            connection.execute(self._sql(add, projection, number, column=column))
        insert = "INSERT INTO {schema}.generations VALUES(%s, %s, %s, 0, 0, %s, NULL)"
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
        """A statement about the `{table}` of a generation and its `{key}`."""
        table = f"{projection.name}_g{number}"
        if len(table.encode()) > _NAME_BYTES:
            # PostgreSQL would cut it, and two tables would have one name.
            raise ValueError(f"{table} is too long for a name")
        return self._database.sql(template, table=(self._database.schema, table), key=projection.key, **names)

    def _statements(
        self, projection: Projection, number: int, operations: Sequence[Operation]
    ) -> Iterator[tuple[str, list[list[Any]]]]:
        """Operations as few statements, each with its values column by column, the keys first."""
        every = list(projection.columns)
        for (kind, given), rows in _merged(operations).items():
            types = ["bigint", *(_type(projection, name) for name in given)]
            new = "unnest(" + ", ".join(f"%b::{type_}[]" for type_ in types) + ") AS new({key}, {given})"
            if kind is Put:
                template = f"""INSERT INTO {{table}}({{key}}, {{given}}) SELECT * FROM {new}
                    ON CONFLICT ({{key}}) DO UPDATE SET ({{changed}}) = ROW({{values}})"""
                changed, source = every, "excluded"  # a column that isn't given becomes null
            else:
                template = f"""UPDATE {{table}} AS old SET ({{changed}}) = ROW({{values}})
                    FROM {new} WHERE old.{{key}} = new.{{key}}"""
                changed, source = [*given], "new"
            statement = self._sql(
                template,
                projection,
                number,
                given=[*given],
                changed=[*changed],
                values=[(source, name) for name in changed],
            )
            yield statement, [list(column) for column in zip(*rows, strict=True)]


def _merged(
    operations: Sequence[Operation],
) -> dict[tuple[type[Operation], tuple[str, ...]], list[tuple[Value, ...]]]:
    """The operations' effect: at most one per key, by kind and columns. Between keys their order is free."""
    last: dict[int, Operation] = {}
    for operation in operations:
        before = last.get(operation.key)
        if isinstance(operation, Put) or before is None:
            last[operation.key] = operation
        elif isinstance(before, Put):
            last[operation.key] = Put(operation.key, {**before.row, **operation.columns})
        else:
            last[operation.key] = Change(operation.key, {**before.columns, **operation.columns})
    shapes: dict[tuple[type[Operation], tuple[str, ...]], list[tuple[Value, ...]]] = {}
    for operation in last.values():
        row = operation.row if isinstance(operation, Put) else operation.columns
        if row:
            values = map(_stored, row.values())
            shapes.setdefault((type(operation), tuple(row)), []).append((operation.key, *values))
    return shapes


def _type(projection: Projection, column: str) -> str:
    """A column that isn't there is left for PostgreSQL to refuse."""
    return _TYPES[projection.columns.get(column, "TEXT")]


def _generation(row: Sequence[Any]) -> Generation:
    projection, number, state, checkpoint, events, started_at_us, finished_at_us = row
    return Generation(
        projection, number, GenerationState(state), checkpoint, events, started_at_us, finished_at_us
    )


# PostgreSQL's text can't hold U+0000. It is stored as \0, and a backslash as \\.


def _text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\0", "\\0") if "\0" in text or "\\" in text else text


def _stored(value: Value) -> Value:
    return _text(value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    if isinstance(value, str) and "\\" in value:
        return "\\".join(part.replace("\\0", "\0") for part in value.split("\\\\"))
    return value
