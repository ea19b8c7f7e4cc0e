"""The statements that an adapter runs, and what the database plans for each of them.

A recorder notes every statement with its values, and the lines of the adapter that ran it. `unvisited` tells which
calls of the adapter were never noted: with none left, every statement was seen.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import psycopg

import adapters

PAGE = 1000
"""The maximum number of rows that may be sorted."""
_VALUES = 40
"""The number of calls of a statement whose values are tried."""
LIMITS = (1, 50, PAGE)
"""The values tried for the limit of a statement: SQLite plans by the bound value."""

_PLANNED = re.compile(r"\s*(SELECT(?! encipher)|INSERT|REPLACE|UPDATE|DELETE|WITH)\b", re.IGNORECASE)
_MIGRATIONS = {"enciphering.py", "rewrapping.py", "migrations.py"}
"""Modules that run once, over tables of an earlier version, which they read whole."""
_CALLS = {
    *("execute", "executemany"),  # of a connection
    *(
        "_all",
        "_one",
        "_write",
        "_each",
        "_select",
        "_claims",
        "_owed",
        "_changed",
        "_instances",
    ),  # of an adapter: they take statements
}
_ROOT = Path(adapters.__file__).parent


@dataclass(frozen=True)
class Allowed:
    """A plan that may be used although it reads a whole table or sorts: `statement` is a part of the statement."""

    statement: str
    plan: str
    why: str


@dataclass
class Recorder:
    """`statements` are those noted since they were last planned. `sites` are all files and lines that ran one."""

    technology: str
    statements: dict[str, list[Any]] = field(default_factory=dict)
    sites: set[tuple[str, int]] = field(default_factory=set)
    is_on: bool = True

    def note(self, statement: str, values: Any) -> None:
        if not self.is_on:
            return
        frame, migrates = sys._getframe(1), False
        folder = str(_ROOT / self.technology)
        while frame.f_back is not None:
            if frame.f_code.co_filename.startswith(folder):
                name = Path(frame.f_code.co_filename).name
                self.sites.add((name, frame.f_lineno))
                migrates = migrates or name in _MIGRATIONS
            frame = frame.f_back
        if _PLANNED.match(statement) and not migrates:
            noted = self.statements.setdefault(statement, [])
            if len(noted) < _VALUES:
                noted.append(values)

    @contextmanager
    def off(self) -> Iterator[None]:
        self.is_on = False
        yield
        self.is_on = True

    def unvisited(self) -> list[str]:
        """The calls in the source of the adapter that may run a statement and never ran one."""
        missing = []
        for path in sorted((_ROOT / self.technology).glob("*.py")):
            if path.name in _MIGRATIONS:
                continue
            lines = {line for name, line in self.sites if name == path.name}
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and _may_run_one(node):
                    inside = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                    if lines.isdisjoint(inside):
                        missing.append(f"{path.name}:{node.lineno}")
        return missing


def _may_run_one(call: ast.Call) -> bool:
    """Whether a call may run a statement that has a plan. `earlier_bytes` is written once, after a migration."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in _CALLS:
        return False
    text = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    return not isinstance(text, str) or (_PLANNED.match(text) is not None and "earlier_bytes" not in text)


def judged(
    statements: Mapping[str, list[Any]],
    wrong: Callable[[str, Any], Iterable[str]],
    allowed: Sequence[Allowed],
    used: set[Allowed],
) -> list[str]:
    """What is wrong with the plans of statements, with every limit, unless it is allowed. Adds to `used`."""
    found = []
    for statement, calls in statements.items():
        for each in (each for values in calls for each in _with_limits(statement, values)):
            for plan in wrong(statement, each):
                excuses = {a for a in allowed if a.statement in statement and a.plan in plan}
                used |= excuses
                if not excuses:
                    found.append(f"{plan}\n    of: {' '.join(statement.split())}\n    with: {each!r:.200}")
    return found


def _with_limits(statement: str, values: Any) -> Iterator[Any]:
    limit = re.search(r"LIMIT (\?|%s)", statement)
    if isinstance(values, Mapping) and ":limit" in statement:
        yield from ({**values, "limit": bound} for bound in LIMITS)
    elif isinstance(values, Sequence) and limit is not None:
        place = len(re.findall(r"\?|%[sbt]", statement[: limit.start()]))
        yield from ((*values[:place], bound, *values[place + 1 :]) for bound in LIMITS)
    else:
        yield values


# --- SQLite ----------------------------------------------------------------------------------


@contextmanager
def recording_sqlite() -> Iterator[Recorder]:
    """Note the statements of every connection that is opened meanwhile."""
    recorder = Recorder("sqlite")

    def note(_: object, statement: str, values: Any) -> bool:
        recorder.note(statement, values)
        return True

    def opened(connection: apsw.Connection) -> None:
        connection.exec_trace = note

    apsw.connection_hooks.append(opened)
    try:
        yield recorder
    finally:
        apsw.connection_hooks.remove(opened)


@contextmanager
def sqlite_plans(path: Path, small: Iterable[str]) -> Iterator[Callable[[str, Any], list[str]]]:
    """Return what is wrong with the plan of a statement: a scan of a table that is not `small`, or a sort.

    A second use within the context plans by the statistics of ANALYZE, which the file does not keep.
    """
    names = "|".join([*small, "CONSTANT ROW"])
    scans = re.compile(rf"SCAN (?!({names})\b)(?!\()")
    searches = re.compile(rf"(SCAN|SEARCH) (?!({names})\b)(?!\()")
    with closing(apsw.Connection(str(path))) as connection:

        def wrong(statement: str, values: Any) -> list[str]:
            dropped = re.search(r"\b\w+_removed\b", statement)
            if dropped and not connection.table_exists(None, dropped[0]):
                return []  # it was judged before
            rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)
            plan = [detail for *_, detail in rows]
            grows = any(searches.match(line) for line in plan)
            return [line for line in plan if scans.match(line) or (grows and "TEMP B-TREE" in line)]

        yield wrong


@contextmanager
def analysed(path: Path) -> Iterator[None]:
    """Statistics as ANALYZE collects them, for connections that are opened meanwhile."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("ANALYZE")
        yield
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_schema WHERE name LIKE 'sqlite_stat%'"
        ).fetchall():
            connection.execute(f"DROP TABLE {name}")


# --- PostgreSQL ------------------------------------------------------------------------------


@contextmanager
def recording_postgres() -> Iterator[Recorder]:
    """Note the statements of every connection of the driver."""
    recorder = Recorder("postgres")
    execute, executemany = psycopg.Cursor.execute, psycopg.Cursor.executemany

    def noted(cursor: Any, query: Any, params: Any = None, **more: Any) -> Any:
        recorder.note(str(query), params)
        return execute(cursor, query, params, **more)

    def noted_many(cursor: Any, query: Any, params_seq: Any, **more: Any) -> Any:
        for params in params_seq:
            recorder.note(str(query), params)
        return executemany(cursor, query, params_seq, **more)

    patched: Any = psycopg.Cursor
    patched.execute, patched.executemany = noted, noted_many
    try:
        yield recorder
    finally:
        patched.execute, patched.executemany = execute, executemany


@contextmanager
def postgres_plans(url: str, small: Iterable[str]) -> Iterator[Callable[[str, Any], list[str]]]:
    """Return what is wrong with the plan of a statement: a scan of a table that is not `small`, or a sort of many rows.

    The server is told to scan only where no index helps: a scan of a few pages is cheaper, and says nothing of many.
    Otherwise its plan must not depend on the number of values in an array. For many it would scan a table, until that has
    some hundred rows for each value.
    """
    names = {*small}
    with closing(psycopg.connect(url.partition("schema=")[0].rstrip("?&"), autocommit=True)) as connection:

        def plan(statement: str, values: Any) -> Sequence[Any]:
            ((found,),) = connection.execute(f"EXPLAIN (FORMAT JSON) {statement}", values).fetchall()
            return [*_nodes(found[0]["Plan"])]

        def wrong(statement: str, values: Any) -> list[str]:
            connection.execute("SET enable_seqscan = off")
            found = [line for node in plan(statement, values) if (line := _wrong(node, names))]
            connection.execute("SET enable_seqscan = on")
            of_few, of_many = ([*map(_kind, plan(statement, some))] for some in _with_arrays(values))
            return found if of_few == of_many else [*found, f"other plan for {PAGE} values: {of_many}"]

        yield wrong


def _with_arrays(values: Any) -> Iterator[Any]:
    """The same with one value in each array that has any, then with many."""
    given = values if isinstance(values, list | tuple) else ()
    for count in (1, PAGE):
        yield [(each * count)[:count] if isinstance(each, list) else each for each in given] or values


def _kind(node: Any) -> tuple[str, str, str]:
    return node["Node Type"], node.get("Relation Name", ""), node.get("Index Name", "")


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for inner in node.get("Plans", ()):
        yield from _nodes(inner)


def _wrong(node: Any, small: set[str]) -> str | None:
    kind, table, rows = node["Node Type"], node.get("Relation Name", ""), node["Plan Rows"]
    if kind == "Seq Scan" and table not in small and not table.startswith("pg_"):
        return f"Seq Scan on {table}"
    return f"{kind} of {rows} rows" if "Sort" in kind and rows > PAGE else None
