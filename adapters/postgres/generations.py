"""The generations of projections in PostgreSQL: begun, promoted, retired and removed, each with its table of rows.

Promise: a change of generations is one durable transaction. Refusal: it knows no rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from adapters.postgres.connection import Connection
from adapters.postgres.database import Database, Name, one
from adapters.postgres.selecting import TYPES, unusual
from adapters.postgres.text import decoded, decoded_key, encoded_key, encoded_text
from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.read_model import (
    STORED_ALREADY,
    Generation,
    GenerationState,
    Phase,
    Report,
    Why,
)
from domain.kernel.projection import Key, Projection, Value

T = TypeVar("T")

BUILDING, CHECKED = GenerationState.BUILDING, GenerationState.CHECKED
CURRENT, RETIRED = GenerationState.CURRENT, GenerationState.RETIRED
_KEY_TYPES = {"INTEGER": "bigint", "TEXT": 'text COLLATE "C"'}  # "C" orders text by code point
_NAME_BYTES = 63
_DROP_WAIT_MS = 1_000
"""The time that a removal waits for readers of its generations. Queries behind it wait as long."""
GENERATION = "projection, number, state, checkpoint, events, started_at_us, finished_at_us, marks, why, code, retired_at_us"
_ALL = "SELECT " + GENERATION + " FROM {schema}.generations WHERE projection = %s ORDER BY number"
_FIND = "SELECT " + GENERATION + " FROM {schema}.generations WHERE projection = %s AND state = %s"
# Locked: otherwise a projector may advance the current generation after its checkpoint is read.
_LOCK_ALL = _ALL + " FOR UPDATE"
# Not the current one: a removal waits for readers of its table, and the projector goes on meanwhile.
_LOCK_REMOVABLE = _ALL.replace(" ORDER", " AND state IN ('retired', 'checked') ORDER") + " FOR UPDATE"
_PHASES_KEPT = 200
_BEGIN_PHASE = """
    INSERT INTO {schema}.generation_phases
    SELECT %s::text, coalesce(max(entry), 0) + 1, %s::integer, %s::text, %s::text, %s::text, %s::bigint, NULL, NULL,
        %s::bigint
    FROM {schema}.generation_phases WHERE projection = %s"""
_TRIM_PHASES = """
    DELETE FROM {schema}.generation_phases WHERE projection = %s AND entry <= (
        SELECT max(entry) FROM {schema}.generation_phases WHERE projection = %s) - %s"""
_END_PHASE = """
    UPDATE {schema}.generation_phases SET to_us = %s, row_count = %s, events = %s - events
    WHERE projection = %s AND generation = %s AND to_us IS NULL"""


class PostgresGenerations:
    _database: Database
    _known_columns: dict[tuple[str, int], set[str]]
    _indexed: set[tuple[str, int]]
    """The generations, by projection and number, whose indexes are known to exist."""

    def prepare(self, projection: Projection, *, now_us: int, code: str = "") -> Generation:
        def ready(connection: Connection) -> Generation | None:
            found = self._find(connection, projection, CURRENT)
            is_ready = found is not None and not self._missing_indexes(connection, projection, found.number)
            return found if is_ready else None

        def made(connection: Connection) -> Generation:
            found = self._find(connection, projection, CURRENT)
            if found is None:
                return self._create(connection, projection, CURRENT, now_us, Why.FIRST_USE, code)
            self._create_indexes(connection, projection, found.number)  # of an earlier version there is none
            return found

        return self._database.read(ready) or self._exclusively(projection, made)

    def generations(self, projection: Projection) -> list[Generation]:
        return [generation_of(row) for row in self._all(_ALL, (projection.name,))]

    def begin_rebuild(
        self,
        projection: Projection,
        *,
        now_us: int,
        instead_of: Generation | None = None,
        why: Why = Why.REBUILD,
        code: str = "",
    ) -> Generation:
        def begin(connection: Connection) -> Generation:
            unfinished = self._find(connection, projection, BUILDING)
            if unfinished is not None:
                if instead_of is None or unfinished.number != instead_of.number:
                    if why is Why.OTHER_HISTORY and unfinished.why is Why.CHECK:
                        self._set_state(connection, unfinished, BUILDING, why=why)
                    return self._find(connection, projection, BUILDING) or unfinished
                self._set_state(connection, unfinished, RETIRED, why=Why.CANCELLED)
                self._end_phase(connection, unfinished, now_us)
            stored = CHECKED if why is Why.CHECK else RETIRED
            self._remove(
                connection,
                projection,
                [
                    each
                    for each in self._locked(connection, projection, _LOCK_REMOVABLE)
                    if each.state is stored or each.why is Why.CANCELLED
                ],
            )
            return self._create(connection, projection, BUILDING, now_us, why, code)

        return self._exclusively(projection, begin)

    def promote(
        self,
        projection: Projection,
        generation: Generation,
        *,
        now_us: int,
        other_history: bool = False,
        rows: int | None = None,
    ) -> bool:
        def switch(connection: Connection) -> bool:
            live = {each.state: each for each in self._locked(connection, projection)}
            built, current = live.get(BUILDING), live.get(CURRENT)
            if built is None or built.number != generation.number or current is None:
                return False
            if built.checkpoint < current.checkpoint and not other_history:
                return False
            self._end_phase(connection, current, now_us)
            self._end_phase(connection, built, now_us, rows)
            self._set_state(connection, current, RETIRED, retired_at_us=now_us)
            self._set_state(connection, built, CURRENT, finished_at_us=now_us)
            self._begin_phase(connection, built, CURRENT, built.why, now_us)
            return True

        return self._exclusively(projection, switch)

    def end_check(
        self, projection: Projection, generation: Generation, *, now_us: int, rows: int | None = None
    ) -> bool:
        def end(connection: Connection) -> bool:
            stored = self._locked(connection, projection)
            built = next((each for each in stored if each.state is BUILDING), None)
            if built is None or built.number != generation.number or built.why is not Why.CHECK:
                return False
            for each in stored:
                if each.state is CHECKED:  # a check of an earlier worker
                    self._set_state(connection, each, RETIRED)
            self._end_phase(connection, built, now_us, rows)
            self._set_state(connection, built, CHECKED)
            return True

        return self._exclusively(projection, end)

    def resume(self, projection: Projection, number: int, *, now_us: int, why: Why) -> Generation | None:
        def begin(connection: Connection) -> Generation | None:
            stored = {each.number: each for each in self._locked(connection, projection)}
            found = stored.get(number)
            if found is None or found.state not in (RETIRED, CHECKED) or found.why is Why.CANCELLED:
                return None
            if any(each.state is BUILDING for each in stored.values()):
                return None
            self._set_state(connection, found, BUILDING, why=why, retired_at_us=found.retired_at_us)
            self._begin_phase(connection, found, BUILDING, why, now_us)
            return self._find(connection, projection, BUILDING)

        return self._exclusively(projection, begin)

    def cancel(self, projection: Projection, *, now_us: int) -> Generation | None:
        def end(connection: Connection) -> Generation | None:
            stored = self._locked(connection, projection)
            found = next((each for each in stored if each.state is BUILDING), None)
            if found is None:
                return None
            why = found.why if found.why in STORED_ALREADY else Why.CANCELLED
            self._set_state(connection, found, RETIRED, why=why, retired_at_us=found.retired_at_us)
            self._end_phase(connection, found, now_us)
            return next(each for each in self._locked(connection, projection) if each.number == found.number)

        return self._exclusively(projection, end)

    def prune(self, projection: Projection, *, keep: int = 0) -> list[int]:
        def remove(connection: Connection) -> list[int]:
            stored = self._locked(connection, projection, _LOCK_REMOVABLE)
            complete = [each.number for each in stored if each.why is not Why.CANCELLED]
            kept = {*sorted(complete, reverse=True)[:keep]}
            gone = [each for each in stored if each.number not in kept]
            self._remove(connection, projection, gone)
            return [each.number for each in gone]

        return self._exclusively(projection, remove)

    @contextmanager
    def snapshot(self, projection: Projection, generation: Generation) -> Iterator[PostgresSnapshot]:
        with self._database.snapshot() as connection:
            select = _FIND.replace("state = %s", "number = %s")
            own = (projection.name, generation.number)
            found = connection.execute(self._database.sql(select), own).fetchone()
            if found is None:
                raise PartUnavailable(
                    "read models", f"generation {generation.number} of {projection.name} was removed"
                )
            count = "SELECT count(*) FROM {schema}.parked WHERE projection = %s AND generation = %s"
            parked = one(connection, self._database.sql(count), *own)

            def rows(after: Key | None, limit: int) -> list[dict[str, Value]]:
                condition = "TRUE" if after is None else "{key} > %s"
                select = "SELECT * FROM {table} WHERE " + condition + " ORDER BY {key} LIMIT %s"
                statement = self._sql(select, projection, generation.number)
                values = (limit,) if after is None else (encoded_key(after), limit)
                with self._database.errors():
                    cursor = connection.execute(statement, values)
                    names = [column.name for column in cursor.description or ()]
                    return [dict(zip(names, _row(row), strict=True)) for row in cursor.fetchall()]

            yield PostgresSnapshot(generation_of(found), parked, rows)

    def save_report(self, projection: Projection, report: Report) -> None:
        put = """INSERT INTO {schema}.generation_reports VALUES(%s, %s, %s, %s, %s)
            ON CONFLICT (projection, first, second) DO UPDATE
            SET at_us = excluded.at_us, report = excluded.report"""
        values = (
            projection.name,
            report.first,
            report.second,
            report.at_us,
            encoded_text(report.text),
        )
        self._database.write(lambda c: c.execute(self._database.sql(put), values), durable=True)

    def reports(self, projection: Projection) -> list[Report]:
        select = """SELECT first, second, at_us, report FROM {schema}.generation_reports
            WHERE projection = %s ORDER BY first, second"""
        rows = self._all(select, (projection.name,))
        return [Report(first, second, at_us, str(decoded(text))) for first, second, at_us, text in rows]

    def phases(self, projection: Projection, *, limit: int) -> list[Phase]:
        select = """SELECT p.generation, p.state, p.why, p.code, from_us, to_us, row_count,
                CASE WHEN to_us IS NULL THEN g.events - p.events ELSE p.events END
            FROM {schema}.generation_phases AS p LEFT JOIN {schema}.generations AS g
                ON g.projection = p.projection AND g.number = p.generation
            WHERE p.projection = %s ORDER BY entry DESC LIMIT %s"""
        rows = self._all(select, (projection.name, limit))
        return [
            Phase(number, GenerationState(state), Why(why), *others)
            for number, state, why, *others in reversed(rows)
        ]

    # --- within a transaction ------------------------------------------------------------------

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
        self,
        connection: Connection,
        projection: Projection,
        state: GenerationState,
        now_us: int,
        why: Why,
        code: str,
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
            add = "ALTER TABLE {table} ADD {column} " + TYPES[type_]
            connection.execute(self._sql(add, projection, number, column=column))
        self._create_indexes(connection, projection, number)
        insert = (
            "INSERT INTO {schema}.generations("
            + GENERATION
            + ") VALUES(%s, %s, %s, 0, 0, %s, NULL, '', %s, %s, NULL)"
        )
        values = (projection.name, number, state.value, now_us, why.value, code)
        connection.execute(self._database.sql(insert), values)
        created = Generation(projection.name, number, state, 0, 0, now_us, None, why=why, code=code)
        self._begin_phase(connection, created, state, why, now_us)
        return created

    def _columns(self, connection: Connection, projection: Projection, number: int) -> set[str]:
        """The columns of a generation but for its key. They never change; a removed one has none."""
        own = (projection.name, number)
        if own not in self._known_columns:
            select = "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
            table = (self._database.schema, f"{projection.name}_g{number}")
            found = {str(name) for (name,) in connection.execute(select, table).fetchall()}
            if not found:
                return set()
            self._known_columns[own] = found - {projection.key}
        return self._known_columns[own]

    def _missing_indexes(self, connection: Connection, projection: Projection, number: int) -> dict[str, str]:
        """The names of the indexes that a generation has to have and does not have, with their columns."""
        own = (projection.name, number)
        if not projection.usual or own in self._indexed:
            return {}
        present = self._columns(connection, projection, number)
        # By the place of the column: PostgreSQL cuts long names.
        wanted = {
            f"{projection.name}_g{number}_usual_{place}": column
            for place, column in enumerate(sorted(projection.columns))
            if column in projection.usual and column in present
        }
        select = "SELECT indexname FROM pg_indexes WHERE schemaname = %s AND indexname = ANY(%s)"
        rows = connection.execute(select, (self._database.schema, [*wanted])).fetchall()
        missing = wanted.keys() - {name for (name,) in rows}
        if not missing:
            self._indexed.add(own)
        return {name: wanted[name] for name in sorted(missing)}

    def _create_indexes(self, connection: Connection, projection: Projection, number: int) -> None:
        for name, column in self._missing_indexes(connection, projection, number).items():
            create = "CREATE INDEX {index} ON {table}({column}, {key}) WHERE " + unusual(projection, column)
            connection.execute(self._sql(create, projection, number, index=name, column=column))

    def clear(self, *, limit: int) -> bool:
        return False  # a table is dropped with its file

    def _remove(
        self, connection: Connection, projection: Projection, generations: Sequence[Generation]
    ) -> None:
        if not generations:
            return
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{_DROP_WAIT_MS}ms",))
        for each in generations:
            own = (projection.name, each.number)
            delete = "DELETE FROM {schema}.generations WHERE projection = %s AND number = %s"
            connection.execute(self._database.sql(delete), own)
            reports = (
                "DELETE FROM {schema}.generation_reports WHERE projection = %s AND %s IN (first, second)"
            )
            connection.execute(self._database.sql(reports), own)
            # A reader looks up the table's name, then queries the table. If the table is missing by then, the
            # reader looks up the name again.
            connection.execute(self._sql("DROP TABLE {table}", projection, each.number))

    def _set_state(
        self,
        connection: Connection,
        generation: Generation,
        state: GenerationState,
        *,
        why: Why | None = None,
        retired_at_us: int | None = None,
        finished_at_us: int | None = None,
    ) -> None:
        change = """UPDATE {schema}.generations SET state = %s, why = %s, retired_at_us = %s,
                finished_at_us = coalesce(%s, finished_at_us)
            WHERE projection = %s AND number = %s"""
        own = (generation.projection, generation.number)
        values = (state.value, (why or generation.why).value, retired_at_us, finished_at_us, *own)
        connection.execute(self._database.sql(change), values)

    def _begin_phase(
        self,
        connection: Connection,
        generation: Generation,
        state: GenerationState,
        why: Why,
        now_us: int,
    ) -> None:
        name = generation.projection
        begun = (state.value, why.value, generation.code, now_us, generation.events)
        connection.execute(self._database.sql(_BEGIN_PHASE), (name, generation.number, *begun, name))
        connection.execute(self._database.sql(_TRIM_PHASES), (name, name, _PHASES_KEPT))

    def _end_phase(
        self, connection: Connection, generation: Generation, now_us: int, rows: int | None = None
    ) -> None:
        ended = (now_us, rows, generation.events, generation.projection, generation.number)
        connection.execute(self._database.sql(_END_PHASE), ended)

    def _find(
        self, connection: Connection, projection: Projection, state: GenerationState
    ) -> Generation | None:
        row = connection.execute(self._database.sql(_FIND), (projection.name, state.value)).fetchone()
        return None if row is None else generation_of(row)

    def _locked(
        self, connection: Connection, projection: Projection, select: str = _LOCK_ALL
    ) -> list[Generation]:
        rows = connection.execute(self._database.sql(select), (projection.name,)).fetchall()
        return [generation_of(row) for row in rows]

    def _all(self, template: str, arguments: Sequence[object]) -> list[tuple[Any, ...]]:
        statement = self._database.sql(template)
        return self._database.read(lambda connection: connection.execute(statement, arguments).fetchall())

    def _sql(self, template: str, projection: Projection, number: int, **names: Name | list[Name]) -> str:
        """A statement that uses the `{table}` of a generation and its `{key}`."""
        table = f"{projection.name}_g{number}"
        if len(table.encode()) > _NAME_BYTES:
            # PostgreSQL cuts names: two tables could get the same one.
            raise ValueError(f"{table} is too long for the name of a table")
        return self._database.sql(template, table=(self._database.schema, table), key=projection.key, **names)


class PostgresSnapshot:
    def __init__(
        self,
        generation: Generation,
        parked: int,
        rows: Callable[[Key | None, int], list[dict[str, Value]]],
    ) -> None:
        self.generation = generation
        self.parked = parked
        self._rows = rows

    def rows(self, after: Key | None, limit: int) -> list[dict[str, Value]]:
        return self._rows(after, limit)


def _row(row: Sequence[Any]) -> list[Value]:
    key, *values = row
    return [decoded_key(key), *map(decoded, values)]


def generation_of(row: Sequence[Any]) -> Generation:
    projection, number, state, *places, why, code, retired = row
    given = {"why": Why(why), "code": code, "retired_at_us": retired}
    return Generation(projection, number, GenerationState(state), *places, **given)
