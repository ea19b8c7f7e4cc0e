"""The generations of projections in SQLite: begun, promoted, retired and removed, each with its table of rows.

Promise: a change of generations is one transaction. Refusal: it knows no rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from adapters.sqlite.database import Connection, Database
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

BUILDING, CHECKED = GenerationState.BUILDING, GenerationState.CHECKED
CURRENT, RETIRED = GenerationState.CURRENT, GenerationState.RETIRED
GENERATION = "projection, number, state, checkpoint, events, started_at_us, finished_at_us, marks, why, code, retired_at_us"
_PHASES_KEPT = 200


class SqliteGenerations:
    _database: Database
    _known_columns: dict[tuple[str, int], set[str]]

    def prepare(self, projection: Projection, *, now_us: int, code: str = "") -> Generation:
        with self._database.reading() as connection:
            current = find(connection, projection, CURRENT)
            is_indexed = current is not None and not _missing_indexes(connection, projection, current.number)
        if current is not None and is_indexed:
            return current
        with self._database.writing() as connection:
            if current := find(connection, projection, CURRENT):
                _create_indexes(connection, projection, current.number)  # of an earlier version there is none
                return current
            number = _next_number(connection, projection)
            return _create(connection, projection, number, CURRENT, now_us, Why.FIRST_USE, code)

    def generations(self, projection: Projection) -> list[Generation]:
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT {GENERATION} FROM generations WHERE projection = ? ORDER BY number",
                (projection.name,),
            ).fetchall()
        return [generation_of(row) for row in rows]

    def adopt(
        self, projection: Projection, generation: Generation, *, code: str, now_us: int
    ) -> Generation | None:
        with self._database.writing() as connection:
            current = _must_find(connection, projection, CURRENT)
            if (current.number, current.code) != (generation.number, generation.code):
                return None
            connection.execute(
                "UPDATE generations SET code = ? WHERE projection = ? AND number = ?",
                (current.adopted_by(code), projection.name, current.number),
            )
            _end_phase(connection, current, now_us)
            adopted = _must_find(connection, projection, CURRENT)
            _begin_phase(connection, adopted, CURRENT, adopted.why, now_us)
            return adopted

    def columns(self, projection: Projection, generation: Generation) -> set[str]:
        with self._database.reading() as connection:
            return self._columns(connection, projection, generation.number)

    def _columns(self, connection: Connection, projection: Projection, number: int) -> set[str]:
        """The columns of a generation but for its key. They never change; a removed one has none."""
        own = (projection.name, number)
        if own not in self._known_columns:
            found: Any = connection.execute(f"PRAGMA table_info({table_of(projection, number)})").fetchall()
            if not found:
                return set()
            self._known_columns[own] = {str(name) for _, name, *_ in found} - {projection.key}
        return self._known_columns[own]

    def begin_rebuild(
        self,
        projection: Projection,
        *,
        now_us: int,
        instead_of: Generation | None = None,
        why: Why = Why.REBUILD,
        code: str = "",
    ) -> Generation:
        with self._database.writing() as connection:
            unfinished = find(connection, projection, BUILDING)
            if unfinished is not None:
                if instead_of is None or unfinished.number != instead_of.number:
                    if why is Why.OTHER_HISTORY and unfinished.why is Why.CHECK:
                        _set_state(connection, unfinished, BUILDING, why=why)
                    return _must_find(connection, projection, BUILDING)
                _set_state(connection, unfinished, RETIRED, why=Why.CANCELLED)
                _end_phase(connection, unfinished, now_us)
            # Before the removal: a number is never used twice.
            number = _next_number(connection, projection)
            for each in _of_state(connection, projection, CHECKED if why is Why.CHECK else RETIRED):
                _remove(connection, projection, each)
            for each in _of_state(connection, projection, RETIRED):
                if each.why is Why.CANCELLED:
                    _remove(connection, projection, each)
            return _create(connection, projection, number, BUILDING, now_us, why, code)

    def promote(
        self,
        projection: Projection,
        generation: Generation,
        *,
        now_us: int,
        other_history: bool = False,
        rows: int | None = None,
    ) -> bool:
        with self._database.writing() as connection:
            built = find(connection, projection, BUILDING)
            current = _must_find(connection, projection, CURRENT)
            if built is None or built.number != generation.number:
                return False
            if built.checkpoint < current.checkpoint and not other_history:
                return False
            _end_phase(connection, current, now_us)
            _end_phase(connection, built, now_us, rows)
            _set_state(connection, current, RETIRED, retired_at_us=now_us)
            _set_state(connection, built, CURRENT)
            connection.execute(
                "UPDATE generations SET finished_at_us = ? WHERE projection = ? AND number = ?",
                (now_us, projection.name, built.number),
            )
            _begin_phase(connection, built, CURRENT, built.why, now_us)
            return True

    def end_check(
        self, projection: Projection, generation: Generation, *, now_us: int, rows: int | None = None
    ) -> bool:
        with self._database.writing() as connection:
            built = find(connection, projection, BUILDING)
            if built is None or built.number != generation.number or built.why is not Why.CHECK:
                return False
            for each in _of_state(connection, projection, CHECKED):  # a check of an earlier worker
                _set_state(connection, each, RETIRED)
            _end_phase(connection, built, now_us, rows)
            _set_state(connection, built, CHECKED)
            return True

    def resume(self, projection: Projection, number: int, *, now_us: int, why: Why) -> Generation | None:
        with self._database.writing() as connection:
            found = find_number(connection, projection, number)
            if found is None or found.state not in (RETIRED, CHECKED) or found.why is Why.CANCELLED:
                return None
            if find(connection, projection, BUILDING) is not None:
                return None
            _set_state(connection, found, BUILDING, why=why, retired_at_us=found.retired_at_us)
            _begin_phase(connection, found, BUILDING, why, now_us)
            return _must_find(connection, projection, BUILDING)

    def cancel(self, projection: Projection, *, now_us: int) -> Generation | None:
        with self._database.writing() as connection:
            found = find(connection, projection, BUILDING)
            if found is None:
                return None
            why = found.why if found.why in STORED_ALREADY else Why.CANCELLED
            _set_state(connection, found, RETIRED, why=why, retired_at_us=found.retired_at_us)
            _end_phase(connection, found, now_us)
            return find_number(connection, projection, found.number)

    def prune(self, projection: Projection, *, keep: int = 0) -> list[int]:
        with self._database.writing() as connection:
            stored = [
                each
                for state in (RETIRED, CHECKED)
                for each in _of_state(connection, projection, state)
                if each.why is not Why.CANCELLED
            ]
            kept = {each.number for each in sorted(stored, key=lambda each: -each.number)[:keep]}
            removed = [
                each
                for state in (RETIRED, CHECKED)
                for each in _of_state(connection, projection, state)
                if each.number not in kept
            ]
            for each in removed:
                _remove(connection, projection, each)
            return sorted(each.number for each in removed)

    def clear(self, *, limit: int) -> bool:
        with self._database.reading() as connection:
            if not (found := _removed_tables(connection)):
                return False
        with self._database.writing() as connection:
            for name, key in _removed_tables(connection):
                bound: Any = connection.execute(
                    f"SELECT {key} FROM {name} ORDER BY {key} LIMIT 1 OFFSET ?", (limit,)
                ).get
                if bound is not None:
                    connection.execute(f"DELETE FROM {name} WHERE {key} < ?", (bound,))
                    return True
                if limit:
                    connection.execute(f"DROP TABLE {name}")
                    return len(found) > 1
        return False

    @contextmanager
    def snapshot(self, projection: Projection, generation: Generation) -> Iterator[SqliteSnapshot]:
        with self._database.snapshot() as connection:
            yield SqliteSnapshot(self._database, connection, projection, generation)

    def save_report(self, projection: Projection, report: Report) -> None:
        with self._database.writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO generation_reports VALUES(?, ?, ?, ?, ?)",
                (projection.name, report.first, report.second, report.at_us, report.text),
            )

    def reports(self, projection: Projection) -> list[Report]:
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(
                """SELECT first, second, at_us, report FROM generation_reports
                   WHERE projection = ? ORDER BY first, second""",
                (projection.name,),
            ).fetchall()
        return [Report(*row) for row in rows]

    def phases(self, projection: Projection, *, limit: int) -> list[Phase]:
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(
                """SELECT generation, p.state, p.why, p.code, from_us, to_us, row_count,
                       CASE WHEN to_us IS NULL THEN g.events - p.events ELSE p.events END
                   FROM generation_phases AS p
                   LEFT JOIN generations AS g ON g.projection = p.projection AND g.number = p.generation
                   WHERE p.projection = ? ORDER BY entry DESC LIMIT ?""",
                (projection.name, limit),
            ).fetchall()
        return [
            Phase(number, GenerationState(state), Why(why), *others)
            for number, state, why, *others in reversed(rows)
        ]


class SqliteSnapshot:
    def __init__(
        self, database: Database, connection: Connection, projection: Projection, generation: Generation
    ) -> None:
        self._database = database
        self._connection = connection
        self._projection = projection
        found = find_number(connection, projection, generation.number)
        if found is None:
            raise removed(projection, generation)
        self.generation = found
        own = (projection.name, found.number)
        count = "SELECT count() FROM parked WHERE projection = ? AND generation = ?"
        self.parked: int = int(connection.execute(count, own).get or 0)

    def rows(self, after: Key | None, limit: int) -> list[dict[str, Value]]:
        key = self._projection.key
        condition = "TRUE" if after is None else f"{key} > ?"
        select = f"SELECT * FROM {table_of(self._projection, self.generation.number)} WHERE {condition} ORDER BY {key} LIMIT ?"
        with self._database.errors():
            cursor = self._connection.execute(select, (limit,) if after is None else (after, limit))
            rows: list[Any] = []
            names: Sequence[str] = ()
            for row in cursor:
                names = names or [name for name, *_ in cursor.get_description()]
                rows.append(row)
        return [dict(zip(names, row, strict=True)) for row in rows]


def removed(projection: Projection, generation: Generation) -> PartUnavailable:
    return PartUnavailable("read models", f"generation {generation.number} of {projection.name} was removed")


def table_of(projection: Projection, number: int) -> str:
    return f"{projection.name}_g{number}"


def find(connection: Connection, projection: Projection, state: GenerationState) -> Generation | None:
    row = connection.execute(
        f"SELECT {GENERATION} FROM generations WHERE projection = ? AND state = ?",
        (projection.name, state.value),
    ).fetchone()
    return None if row is None else generation_of(row)


def find_number(connection: Connection, projection: Projection, number: int) -> Generation | None:
    row = connection.execute(
        f"SELECT {GENERATION} FROM generations WHERE projection = ? AND number = ?", (projection.name, number)
    ).fetchone()
    return None if row is None else generation_of(row)


def generation_of(row: Any) -> Generation:
    projection, number, state, *places, why, code, retired = row
    given = {"why": Why(why), "code": code, "retired_at_us": retired}
    return Generation(projection, number, GenerationState(state), *places, **given)


def _must_find(connection: Connection, projection: Projection, state: GenerationState) -> Generation:
    found = find(connection, projection, state)
    assert found is not None
    return found


def _of_state(connection: Connection, projection: Projection, state: GenerationState) -> list[Generation]:
    rows = connection.execute(
        f"SELECT {GENERATION} FROM generations WHERE projection = ? AND state = ?",
        (projection.name, state.value),
    ).fetchall()
    return [generation_of(row) for row in rows]


def _next_number(connection: Connection, projection: Projection) -> int:
    # The phases keep the numbers of removed ones: a number is never used twice.
    number: Any = connection.execute(
        """SELECT max(coalesce((SELECT max(number) FROM generations WHERE projection = ?), 0),
               coalesce((SELECT max(generation) FROM generation_phases WHERE projection = ?), 0)) + 1""",
        (projection.name, projection.name),
    ).get
    return int(number)


def _create(
    connection: Connection,
    projection: Projection,
    number: int,
    state: GenerationState,
    now_us: int,
    why: Why,
    code: str,
) -> Generation:
    columns = "".join(f", {name} {type_}" for name, type_ in projection.columns.items())
    # A whole-number key is SQLite's row id itself. Beside a text key the row id would be a second key.
    options = "STRICT" if projection.key_type == "INTEGER" else "STRICT, WITHOUT ROWID"
    connection.execute(
        f"CREATE TABLE {table_of(projection, number)}"
        f"({projection.key} {projection.key_type} PRIMARY KEY{columns}) {options}"
    )
    _create_indexes(connection, projection, number)
    connection.execute(
        f"INSERT INTO generations({GENERATION}) VALUES(?, ?, ?, 0, 0, ?, NULL, x'', ?, ?, NULL)",
        (projection.name, number, state.value, now_us, why.value, code),
    )
    created = _must_find(connection, projection, state)
    _begin_phase(connection, created, state, why, now_us)
    return created


def unusual(projection: Projection, column: str) -> str:
    """The condition of the rows that the index of a column leads to. A query needs it word for word to use the index."""
    return f"{column} <> '{projection.usual[column]}'"


def _missing_indexes(connection: Connection, projection: Projection, number: int) -> list[str]:
    """The columns of a generation that have no index yet."""
    table = table_of(projection, number)
    present = {name for (name,) in connection.execute("SELECT name FROM pragma_index_list(?)", (table,))}
    columns = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
    return [name for name in projection.usual if name in columns and f"{table}_by_{name}" not in present]


def _create_indexes(connection: Connection, projection: Projection, number: int) -> None:
    table = table_of(projection, number)
    for column in _missing_indexes(connection, projection, number):
        connection.execute(
            f"CREATE INDEX {table}_by_{column} ON {table}({column}) WHERE {unusual(projection, column)}"
        )


def _remove(connection: Connection, projection: Projection, generation: Generation) -> None:
    own = (projection.name, generation.number)
    # To drop a table overwrites all its rows, because freed space is zeroed. Meanwhile no other transaction could write.
    table = table_of(projection, generation.number)
    connection.execute(f"ALTER TABLE {table} RENAME TO {table}_removed")
    connection.execute("DELETE FROM generations WHERE projection = ? AND number = ?", own)
    connection.execute("DELETE FROM parked WHERE projection = ? AND generation = ?", own)
    connection.execute(
        "DELETE FROM generation_reports WHERE projection = ? AND ? IN (first, second)",
        own,
    )


def _removed_tables(connection: Connection) -> list[tuple[str, str]]:
    """The tables of removed generations, each with the name of its key. No table of a present one ends like that."""
    rows: list[Any] = connection.execute(
        """SELECT t.name, c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c
           WHERE t.type = 'table' AND t.name GLOB '*_g[0-9]*_removed' AND c.pk ORDER BY t.name"""
    ).fetchall()
    return [(name, key) for name, key in rows]


def _set_state(
    connection: Connection,
    generation: Generation,
    state: GenerationState,
    *,
    why: Why | None = None,
    retired_at_us: int | None = None,
) -> None:
    connection.execute(
        "UPDATE generations SET state = ?, why = ?, retired_at_us = ? WHERE projection = ? AND number = ?",
        (
            state.value,
            (why or generation.why).value,
            retired_at_us,
            generation.projection,
            generation.number,
        ),
    )


def _begin_phase(
    connection: Connection, generation: Generation, state: GenerationState, why: Why, now_us: int
) -> None:
    own = (generation.projection, generation.projection)
    connection.execute(
        """INSERT INTO generation_phases
           SELECT ?, coalesce(max(entry), 0) + 1, ?, ?, ?, ?, ?, NULL, NULL, ?
           FROM generation_phases WHERE projection = ?""",
        (
            own[0],
            generation.number,
            state.value,
            why.value,
            generation.code,
            now_us,
            generation.events,
            own[1],
        ),
    )
    connection.execute(
        """DELETE FROM generation_phases WHERE projection = ? AND entry <= (
               SELECT max(entry) FROM generation_phases WHERE projection = ?) - ?""",
        (*own, _PHASES_KEPT),
    )


def _end_phase(connection: Connection, generation: Generation, now_us: int, rows: int | None = None) -> None:
    connection.execute(
        """UPDATE generation_phases SET to_us = ?, row_count = ?, events = ? - events
           WHERE projection = ? AND generation = ? AND to_us IS NULL""",
        (now_us, rows, generation.events, generation.projection, generation.number),
    )
