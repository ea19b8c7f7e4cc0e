"""Units of work in PostgreSQL: migrations, lost connections, wrong statements, outages, locks and settings."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import errors

from adapters.log import describe
from adapters.postgres import database as postgres
from adapters.postgres.connection import Connection
from adapters.postgres.database import Database, one
from adapters.postgres.read_model import PostgresReadModel
from adapters.postgres.vault import PostgresVault
from domain.kernel.errors import EsError
from domain.kernel.history import History
from domain.kernel.ports.vault import DestroyedKey, Reserved
from tests.support.postgres import execute, kill_connections, locked, unavailable
from tests.support.read_models import THINGS, apply, prepared, rebuilding
from tests.support.together import at_once, run_together
from tests.support.vaults import KEK, NOW_US, destroy, holder, register, registration
from tests.support.waiting import DEADLINE_S, assert_within, eventually

CANARY = "canary_77aa"
OpenNotes = Callable[..., Database]


def rows_of(notes: Database) -> list[tuple[Any, ...]]:
    return notes.read(lambda c: c.execute(notes.sql("TABLE {schema}.notes")).fetchall())


# --- start and migrations --------------------------------------------------------------------

_OPEN = """
import sys
from adapters.postgres.read_model import PostgresReadModel
from adapters.postgres.vault import PostgresVault
print("ready", flush=True)
input()
vault = PostgresVault(sys.argv[1], kek=bytes(range(32)))
PostgresReadModel(sys.argv[1])
print(vault._tag("ada@example.com").hex())
"""


def test_eight_processes_that_start_at_once_share_one_schema_and_one_secret(postgres_url: str) -> None:
    assert len(set(run_together(_OPEN, [[postgres_url]] * 8))) == 1


def test_an_older_schema_is_migrated_and_keeps_its_rows(open_notes: OpenNotes) -> None:
    with closing(open_notes()) as old:
        old.write(lambda c: c.execute(old.sql("INSERT INTO {schema}.notes VALUES(1, 'kept')")))
    steps = (
        "ALTER TABLE {schema}.notes ADD colour text DEFAULT 'red'",
        "CREATE INDEX ON {schema}.notes(colour)",
    )

    new, *_ = at_once(lambda _: open_notes(*steps), range(4))

    assert rows_of(new) == [(1, "kept", "red")]


def test_a_newer_schema_is_refused_and_the_hint_says_to_upgrade(open_notes: OpenNotes) -> None:
    open_notes("SELECT 1").close()

    error = unavailable(open_notes, "has version 2, but this program supports 1")

    assert "upgrade" in error.hint


def test_a_failed_migration_changes_nothing(open_notes: OpenNotes) -> None:
    unavailable(lambda: open_notes("ALTER TABLE {schema}.nothing ADD x text"))

    assert rows_of(open_notes()) == []


# --- lost connections ------------------------------------------------------------------------


def test_every_call_works_after_the_connections_were_killed(
    postgres_url: str, vault: PostgresVault, read_model: PostgresReadModel
) -> None:
    register(vault, 1)
    generation = prepared(read_model)
    calls: list[Callable[[], object]] = [
        lambda: holder(vault, "user1@example.com"),
        lambda: vault.data_keys([1]),
        lambda: register(vault, 2),
        lambda: vault.save_checkpoint("erasures", History(3)),
        lambda: destroy(vault, 2),
        lambda: read_model.rows(THINGS),
        lambda: apply(read_model, generation, checkpoint=1),
        lambda: rebuilding(read_model),
    ]
    for call in calls:
        assert kill_connections(postgres_url) >= 2  # those of an earlier test may still be closing
        assert call() or True
        holder(vault, "")
        read_model.generations(THINGS)

    assert isinstance(vault.data_keys([2])[2], DestroyedKey)
    assert vault.checkpoint("erasures") == History(3)
    assert [g.checkpoint for g in read_model.generations(THINGS)] == [1, 0]


def test_a_transaction_whose_connection_is_killed_is_applied_once(postgres_url: str, notes: Database) -> None:
    tries = []

    def work(connection: Connection) -> None:
        connection.execute(notes.sql("INSERT INTO {schema}.notes VALUES(1, 'x')")).rowcount  # noqa: B018
        tries.append(1)
        if len(tries) < 3:
            kill_connections(postgres_url)

    notes.write(work)

    assert len(tries) == 3
    assert rows_of(notes) == [(1, "x")]


@pytest.fixture
def lose_reply(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Breaks the connection after the next commit and before its reply arrives."""
    original = Database._try
    armed: list[bool] = []

    def once(self: Database, work: Callable[[Connection], Any], timeout_s: float) -> Any:
        reply = original(self, work, timeout_s)
        if armed:
            armed.clear()
            self._connection().close()
            raise psycopg.OperationalError("the connection is lost")
        return reply

    monkeypatch.setattr(Database, "_try", once)
    return lambda: armed.append(True)


def test_a_reservation_whose_reply_was_lost_is_taken_over(
    vault: PostgresVault, lose_reply: Callable[[], None]
) -> None:
    request = registration()
    lose_reply()

    assert vault.reserve([request], now_us=NOW_US) == [Reserved(1, request.reservation_id, repeated=True)]


def test_an_apply_whose_reply_was_lost_is_not_applied_twice(
    read_model: PostgresReadModel, lose_reply: Callable[[], None]
) -> None:
    generation = prepared(read_model)
    lose_reply()

    late = read_model.apply(THINGS, generation, [], reached=History(5), events=5)

    assert late is None, "the projector reads its checkpoint again"
    assert [(g.checkpoint, g.events) for g in read_model.generations(THINGS)] == [(5, 5)]


def test_the_connections_of_ended_threads_are_closed(postgres_url: str, vault: PostgresVault) -> None:
    for _ in range(10):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(holder, vault, "ada@example.com").result(DEADLINE_S)

    count = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'es'"
    )
    eventually(lambda: execute(postgres_url, count) <= [(2,)], "connections are closed")
    assert holder(vault, "ada@example.com") is None, "the vault still works"


# --- bugs and outages ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "arguments", "expected"),
    [
        ("(id, no_column) VALUES(1, %s)", (CANARY,), errors.UndefinedColumn),
        (" VALUES(1, %s", (CANARY,), errors.SyntaxError),
        (" VALUES(1, %s), (1, '')", (CANARY,), errors.UniqueViolation),
        (" VALUES(%s::text::integer, '')", (CANARY,), errors.InvalidTextRepresentation),
        (" VALUES(1, %s)", (f"{CANARY}\0",), psycopg.DataError),
        (" VALUES(1, %s)", (CANARY, 2), psycopg.ProgrammingError),
    ],
)
@pytest.mark.parametrize("how", ["read", "write"])
def test_a_wrong_statement_is_a_bug_with_its_place_and_without_values(
    notes: Database, how: str, statement: str, arguments: tuple[object, ...], expected: type[Exception]
) -> None:
    insert = notes.sql("INSERT INTO {schema}.notes" + statement) + " RETURNING id"

    with pytest.raises(expected) as raised:
        getattr(notes, how)(lambda c: c.execute(insert, arguments).fetchall())

    assert not isinstance(raised.value, EsError), "otherwise followers would wait for its end"
    logged = describe(raised.value)
    assert logged["error"] == expected.__name__
    assert [place for place in logged["at"] if place.startswith("test_database.py")]
    assert CANARY not in "".join(traceback.format_exception(raised.value))


def test_the_failure_of_a_statement_is_reported_and_not_that_later_ones_were_skipped(notes: Database) -> None:
    def work(connection: Connection) -> None:
        for _ in range(2):
            connection.execute(notes.sql("INSERT INTO {schema}.notes VALUES(1, 'x')"))
        for _ in range(1000):  # more than is sent at once: results arrive before the end is sent
            connection.execute("SELECT repeat('x', 1000), %s::text", ("y" * 1000,))

    with pytest.raises(errors.UniqueViolation):
        notes.write(work)

    assert rows_of(notes) == []


def test_a_transaction_that_depends_on_changed_rows_runs_again_after_another_read(notes: Database) -> None:
    seen: list[int] = []

    def read(connection: Connection) -> tuple[int, Callable[[Connection], object]]:
        seen.append(len(connection.execute(notes.sql("TABLE {schema}.notes")).fetchall()))
        if len(seen) == 1:
            notes.write(lambda c: c.execute(notes.sql("INSERT INTO {schema}.notes VALUES(1, 'rival')")))
        check = notes.sql("SELECT 1 / (count(*) = %s)::int FROM {schema}.notes")

        def write(c: Connection) -> None:
            c.execute(notes.sql("INSERT INTO {schema}.notes VALUES(%s, 'mine')"), (len(seen) + 10,))
            c.execute(check, (seen[-1] + 1,))

        return seen[-1], write

    assert notes.read_then_write(read) == 1

    assert seen == [0, 1]
    assert rows_of(notes) == [(1, "rival"), (12, "mine")]


@pytest.mark.parametrize(
    "sqlstate", ["08006", "25P03", "40003", "53200", "53300", "53400", "55006", "57P02", "58030", "XX000"]
)
def test_a_failing_server_is_an_outage_without_values(notes: Database, sqlstate: str) -> None:
    failure = f"DO $$BEGIN RAISE '{CANARY}' USING ERRCODE = '{sqlstate}'; END$$"

    error = unavailable(lambda: notes.write(lambda c: c.execute(failure)))

    assert CANARY not in str(error) + error.hint


def test_a_cancelled_statement_is_not_reported_as_a_lost_connection(notes: Database) -> None:
    notes.read(lambda c: c.execute("SET statement_timeout = 20"))

    unavailable(lambda: notes.read(lambda c: c.execute("SELECT pg_sleep(60)")), "was cancelled")

    assert notes.read(lambda c: one(c, "SHOW statement_timeout")) == "20ms", "the connection is the same"


# --- settings and locks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by_default", "of_vault"), [("off", "on"), ("on", "on"), ("remote_apply", "remote_apply")]
)
def test_the_vault_commits_durably_under_any_setting_of_the_server(
    own_url: str, by_default: str, of_vault: str
) -> None:
    (name,) = execute(own_url, "SELECT current_database()")[0]
    execute(own_url, f"ALTER DATABASE {name} SET synchronous_commit = {by_default}")

    with closing(PostgresVault(own_url, kek=KEK)) as vault, closing(PostgresReadModel(own_url)) as read_model:
        for part, expected in ((vault, of_vault), (read_model, "off")):
            assert part._database.write(lambda c: one(c, "SHOW synchronous_commit")) == expected


def test_no_statement_is_prepared_in_a_session_that_a_pooler_may_pass_on(
    vault: PostgresVault, read_model: PostgresReadModel
) -> None:
    for number in range(10):  # by default the driver prepares a statement that it has seen a few times
        vault.save_checkpoint("erasures", History(number))
        read_model.generations(THINGS)

    for database in (vault._database, read_model._database):
        assert database.read(lambda c: one(c, "SELECT count(*) FROM pg_prepared_statements")) == 0


def test_a_lock_that_is_not_released_is_unavailable_after_the_lock_timeout(
    postgres_url: str, open_notes: OpenNotes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT_MS", 100)
    notes = open_notes()
    insert = notes.sql("INSERT INTO {schema}.notes VALUES(1, 'x')")
    with locked(postgres_url, notes.sql("LOCK TABLE {schema}.notes")):
        assert_within(2.0, partial(unavailable, lambda: rows_of(notes), "stayed locked"))
        notes.read(lambda c: c.execute("SET lock_timeout = 0"))  # as a pooler may
        write = partial(notes.write, lambda c: c.execute(insert))
        assert_within(2.0, partial(unavailable, write, "stayed locked"))
