"""No statement of an adapter costs more because the store is larger: none scans or sorts a table that grows.

Every method of every port runs once on a part with some thousand rows, and each call of the adapter that runs a
statement must have run. Then the database tells its plan for each statement, with small and large limits, without
statistics and with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from adapters.postgres.connection import server_facts
from adapters.postgres.read_model import PostgresReadModel
from adapters.postgres.vault import PostgresVault
from adapters.postgres.worklist import PostgresWorklist
from adapters.sqlite.database import damage_of
from adapters.sqlite.event_store import SqliteStore
from adapters.sqlite.read_model import SqliteReadModel
from adapters.sqlite.vault import SqliteVault
from adapters.sqlite.worklist import SqliteWorklist
from tests.support.plans import (
    Allowed,
    Recorder,
    analysed,
    judged,
    postgres_plans,
    recording_postgres,
    recording_sqlite,
    sqlite_plans,
)
from tests.support.port_calls import (
    call_another_vault,
    call_event_store,
    call_read_model,
    call_vault,
    call_worklist,
    fill_event_store,
    fill_read_model,
    fill_vault,
    fill_worklist,
)
from tests.support.postgres import execute
from tests.support.vaults import KEK, NOW_US

SMALL = (
    "system",  # one row
    "secrets",  # one row
    "rotations",  # one row
    "earlier_bytes",  # one row
    "checkpoints",  # one row for each process
    "divergences",  # one row for each process
    "process_checkpoints",  # one row for each process manager
    "process_leases",  # one row for each process manager
    "generations",  # a few rows for each projection
    "generation_phases",  # 200 rows for each projection
    "generation_reports",  # a row for each pair of generations that was compared
    "projections",  # one row for each projection
    "quarantine",  # events of other programs that read like the start of an erasure
    "owed_erasures",  # erasures that are not completed yet
    "parked",  # events that a projection could not apply
    "wanted",  # the arguments of a query
    "new",  # the rows that a statement brings with it
    *(f"{rows}-ROW" for rows in range(2, 10_000)),  # likewise, in a plan of SQLite
    "residue",  # one row for each partition
    "schema_version",  # one row
    "sqlite_schema",  # one row for each table
    "pragma_index_list",  # the indexes of one table
    "pragma_table_info",  # the columns of one table
)
"""Tables that do not grow with the store."""

ON_SQLITE = (
    Allowed("FROM blocks ORDER BY block DESC LIMIT 1", "SCAN blocks", "it reads one row"),
    Allowed("FROM events ORDER BY position DESC LIMIT 1", "SCAN events", "it reads one row"),
    Allowed("FROM (SELECT 1 FROM", "SCAN", "it stops at the limit of the count"),
    Allowed(
        "WHERE TRUE ORDER BY thing_id LIMIT", "SCAN", "it reads in order of the key until the page is full"
    ),
    Allowed("WHERE colour = ? ORDER BY", "SCAN", "most rows have the usual value: the page is full soon"),
    Allowed("FROM data_keys WHERE subject > :after", "TEMP B-TREE", "it sorts two pages"),
    Allowed("_removed ORDER BY", "SCAN", "it stops after the rows of one transaction"),
    Allowed("FROM sqlite_schema AS t", "TEMP B-TREE", "it sorts a few tables"),
    Allowed("FROM sqlite_schema AS t", "SCAN", "it reads the columns of a few tables"),
)
ON_POSTGRES = (
    Allowed("WHERE id = ANY(CAST(", "other plan", "it is used for a few ids only"),
    Allowed("FROM pg_indexes", "other plan", "it names the indexes of one table"),
    Allowed("AS found ORDER BY reservation_id", "Sort", "it sorts the claims of the given people"),
    Allowed("data_keys WHERE subject > %s", "Sort", "it sorts two pages"),
    Allowed(
        "NOT confirmed AND expires_at_us <= %s",
        "Sort",
        "a reservation is unconfirmed for a minute: they are few",
    ),
    Allowed("WHERE (process, instance) >", "Sort", "the rest of the list is hardly longer than the page"),
)

Plans = Callable[[str, Any], list[str]]


class Findings:
    """What is wrong with the plans of all statements."""

    def __init__(self, allowed: Sequence[Allowed]) -> None:
        self._allowed = allowed
        self._used: set[Allowed] = set()
        self._problems: list[str] = []

    def look(
        self,
        recorder: Recorder,
        calls: Iterator[None],
        plans: Callable[[Callable[[Plans], None]], None],
    ) -> None:
        """Make the calls, and ask for the plans of their statements while the tables exist."""
        for _ in calls:
            noted, recorder.statements = recorder.statements, {}

            def judge(wrong: Plans, noted: dict[str, list[Any]] = noted) -> None:
                self._problems += judged(noted, wrong, self._allowed, self._used)

            with recorder.off():
                plans(judge)

    def check(self, recorder: Recorder) -> None:
        assert not self._problems, "\n".join(self._problems)
        unvisited = recorder.unvisited()
        assert not unvisited, f"{unvisited} ran no statement, see tests/support/port_calls.py"
        if (
            recorder.technology == "sqlite"
        ):  # PostgreSQL plans by its statistics, which it renews when it likes
            assert self._used == {*self._allowed}, "every exception is needed"


def test_no_statement_on_sqlite_scans_or_sorts_a_table_that_grows(tmp_path: Path) -> None:
    found, plans = Findings(ON_SQLITE), partial(_sqlite_plans, tmp_path)
    with recording_sqlite() as recorder:
        with closing(SqliteStore(tmp_path / "events.db")) as store:
            with recorder.off():
                fill_event_store(store)
                _damage_texts(tmp_path / "events.db", "events", "type", "position = 1")
            store.record_place("here")
            assert store.place() == "here"
            found.look(recorder, call_event_store(store), partial(plans, "events.db"))
        with closing(SqliteVault(tmp_path / "vault.db", kek=KEK)) as vault:
            with recorder.off():
                fill_vault(vault)
            found.look(recorder, call_vault(vault), partial(plans, "vault.db"))
        with closing(SqliteReadModel(tmp_path / "read.db")) as model:
            with recorder.off():
                fill_read_model(model)
                _damage_texts(tmp_path / "read.db", "things_g1", "colour", "thing_id = 8")
            found.look(recorder, call_read_model(model), partial(plans, "read.db"))
        with closing(SqliteWorklist(tmp_path / "read.db")) as worklist:
            with recorder.off():
                fill_worklist(worklist)
            found.look(recorder, call_worklist(worklist), partial(plans, "read.db"))
        assert damage_of(tmp_path / "events.db") == []

    found.check(recorder)


def _damage_texts(path: Path, table: str, column: str, where: str) -> None:
    """Make a text no UTF-8, so that the statements for such pages run too."""
    with closing(apsw.Connection(str(path))) as connection:
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?", (table,)
        ).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(f"UPDATE {table} SET {column} = CAST(x'ff' AS TEXT) WHERE {where}")
        for _, statement in triggers:
            connection.execute(str(statement))


def _sqlite_plans(folder: Path, name: str, judge: Callable[[Plans], None]) -> None:
    with sqlite_plans(folder / name, SMALL) as plans:
        judge(plans)
    with analysed(folder / name), sqlite_plans(folder / name, SMALL) as plans:
        judge(plans)


def test_no_statement_on_postgresql_scans_or_sorts_a_table_that_grows(postgres_url: str) -> None:
    found, plans = Findings(ON_POSTGRES), partial(_postgres_plans, postgres_url)
    with recording_postgres() as recorder:
        with closing(PostgresVault(postgres_url, kek=KEK)) as vault:
            with recorder.off():
                fill_vault(vault)
            found.look(recorder, call_vault(vault), plans)
        with closing(PostgresVault(postgres_url, kek=KEK)) as another:
            another._database.read(
                another._buckets.refresh_tags
            )  # it needs a label that this worker does not know
            found.look(recorder, call_another_vault(another), plans)
        with closing(PostgresReadModel(postgres_url)) as model:
            with recorder.off():
                fill_read_model(model)
            found.look(recorder, call_read_model(model), plans)
        with closing(PostgresWorklist(postgres_url)) as worklist:
            with recorder.off():
                fill_worklist(worklist)
            found.look(recorder, call_worklist(worklist), plans)
        server_facts(postgres_url, now_us=lambda: NOW_US)

    found.check(recorder)


def _postgres_plans(url: str, judge: Callable[[Plans], None]) -> None:
    with postgres_plans(url, SMALL) as plans:
        judge(plans)
        execute(url, "ANALYZE")
        judge(plans)
