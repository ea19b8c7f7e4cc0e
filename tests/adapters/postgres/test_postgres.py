"""PostgreSQL: what a server promises beyond the contracts: starts at once, lost connections, outages, wrong URLs,
migrations, durability, locks, and no residue of a destroyed key in the files of its tables."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from typing import Any, ClassVar
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

from adapters.log import describe
from adapters.postgres import database as postgres
from adapters.postgres import read_model as read_postgres
from adapters.postgres.database import Connection, Database, one, server_facts
from adapters.postgres.read_model import PostgresReadModel
from adapters.postgres.vault import PostgresVault
from domain.kernel.errors import EsError, InvalidInput, InvalidSetting, PartUnavailable
from domain.kernel.events import Event, Recorded
from domain.kernel.ports.read_model import Generation, GenerationState, Parked
from domain.kernel.ports.vault import (
    AlreadyHeld,
    ClaimAnswer,
    ClaimRequest,
    ClaimState,
    DestroyedKey,
    HeldByOther,
    LivingKey,
    Reserved,
)
from domain.kernel.projection import Change, Operation, Projection, Put, Row
from tests.support.builders import DEADLINE_S, assert_within, eventually, start_python
from tests.support.postgres import (
    Server,
    a_database,
    execute,
    postgres_database,
    postgres_url,
    private_server,
    with_option,
)

__all__ = ["postgres_database", "postgres_url"]  # fixtures

KEK = bytes(range(32))
NOW_US = 1_760_000_000_000_000
CANARY = "canary_77aa"
_NOTES = "CREATE TABLE {schema}.notes(id integer PRIMARY KEY, text text NOT NULL)"


class Oddities(Projection):
    """A projection whose every name is a word of SQL or needs quoting."""

    name: ClassVar[str] = 'select "x"'
    prefixes: ClassVar[Sequence[str]] = ("thing-",)
    key: ClassVar[str] = "order"
    columns: ClassVar[Mapping[str, str]] = {"from": "TEXT", "Size; --": "INTEGER"}

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        raise AssertionError("a read model knows nothing of events")


@pytest.fixture
def vault(postgres_url: str) -> Iterator[PostgresVault]:
    with closing(PostgresVault(postgres_url, kek=KEK)) as opened:
        yield opened


@pytest.fixture
def read_model(postgres_url: str) -> Iterator[PostgresReadModel]:
    with closing(PostgresReadModel(postgres_url)) as opened:
        yield opened


@pytest.fixture
def notes(postgres_url: str) -> Iterator[Database]:
    with closing(Database(postgres_url, part="vault", migrations=[_NOTES])) as opened:
        yield opened


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    with private_server() as server:
        yield server


@pytest.fixture
def server(own_server: Server) -> Iterator[Server]:
    yield own_server
    own_server.ensure_running()


@pytest.fixture
def own_url(server: Server) -> Iterator[str]:
    with a_database(server.url) as url:
        yield url


def registration(email: str, subject: int) -> ClaimRequest:
    return ClaimRequest(email, subject, uuid4(), uuid4(), registers=True)


def register(vault: PostgresVault, *subjects: int) -> list[ClaimAnswer]:
    return vault.reserve([registration(f"user{s}@example.com", s) for s in subjects], now_us=NOW_US)


def setting(database: Database, name: str) -> Any:
    """As a transaction finds it."""
    return database.write(lambda connection: one(connection, f"SHOW {name}"))


def kill_connections(url: str) -> int:
    """End every other session of this database, as an administrator or a failover does; how many there were."""
    killed = execute(
        url,
        """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
           WHERE datname = current_database() AND application_name = 'es' AND pid <> pg_backend_pid()""",
    )
    return len(killed)


# --- several workers start at once -----------------------------------------------------------

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


def test_eight_processes_that_start_on_an_empty_database_share_one_schema_and_one_secret(
    postgres_url: str,
) -> None:
    processes = [start_python(_OPEN, postgres_url) for _ in range(8)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=DEADLINE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()

    assert [err for _, err in said] == [""] * 8
    assert len({out for out, _ in said}) == 1


# --- migrations ------------------------------------------------------------------------------


def test_an_older_schema_is_brought_up_to_date_and_keeps_its_rows(postgres_url: str) -> None:
    with closing(Database(postgres_url, part="vault", migrations=[_NOTES])) as old:
        old.write(lambda c: c.execute(old.sql("INSERT INTO {schema}.notes VALUES(1, 'kept')")))
    steps = [
        _NOTES,
        "ALTER TABLE {schema}.notes ADD colour text DEFAULT 'red'",
        "CREATE INDEX ON {schema}.notes(colour)",
    ]

    with ThreadPoolExecutor(4) as pool, ExitStack() as opened:
        new = list(pool.map(lambda _: Database(postgres_url, part="vault", migrations=steps), range(4)))
        for database in new:
            opened.enter_context(closing(database))
        rows = new[0].read(lambda c: c.execute(new[0].sql("TABLE {schema}.notes")).fetchall())

    assert rows == [(1, "kept", "red")]


def test_a_newer_schema_is_left_alone_and_the_error_says_to_upgrade(postgres_url: str) -> None:
    Database(postgres_url, part="vault", migrations=[_NOTES, "SELECT 1"]).close()

    with pytest.raises(PartUnavailable, match="has version 2, this program 1") as refused:
        Database(postgres_url, part="vault", migrations=[_NOTES])

    assert "upgrade" in refused.value.hint


def test_a_migration_that_fails_changes_nothing(postgres_url: str) -> None:
    with pytest.raises(PartUnavailable):
        Database(postgres_url, part="vault", migrations=[_NOTES, "ALTER TABLE {schema}.nothing ADD x text"])

    with closing(Database(postgres_url, part="vault", migrations=[_NOTES])) as mended:
        assert mended.read(lambda c: c.execute(mended.sql("TABLE {schema}.notes")).fetchall()) == []


# --- lost connections ------------------------------------------------------------------------


def test_a_call_after_the_connections_were_killed_works(
    postgres_url: str, vault: PostgresVault, read_model: PostgresReadModel
) -> None:
    register(vault, 1)
    generation = read_model.prepare(Oddities(), now_us=NOW_US)
    calls: list[Callable[[], object]] = [
        lambda: vault.holder("user1@example.com"),
        lambda: vault.data_keys([1]),
        lambda: register(vault, 2),
        lambda: vault.save_checkpoint("erasures", 3),
        lambda: vault.destroy_key(2, process="erasures", position=4),
        lambda: read_model.rows(Oddities()),
        lambda: read_model.apply(Oddities(), generation, [], checkpoint=1, events=0),
        lambda: read_model.begin_rebuild(Oddities(), now_us=NOW_US),
    ]
    for call in calls:
        assert kill_connections(postgres_url) >= 2  # those of an earlier test may still be closing
        assert call() or True
        vault.holder("")
        read_model.generations(Oddities())

    assert vault.data_keys([2]) == {2: DestroyedKey()}
    assert vault.checkpoint("erasures") == 4
    assert [g.checkpoint for g in read_model.generations(Oddities())] == [1, 0]


def test_a_transaction_whose_connection_is_killed_in_the_middle_is_done_once(
    postgres_url: str, notes: Database
) -> None:
    tries = []

    def work(connection: Connection) -> None:
        connection.execute(notes.sql("INSERT INTO {schema}.notes VALUES(1, 'x')")).rowcount  # noqa: B018
        tries.append(1)
        if len(tries) < 3:
            kill_connections(postgres_url)

    notes.write(work)

    assert len(tries) == 3
    assert notes.read(lambda c: one(c, notes.sql("SELECT count(*) FROM {schema}.notes"))) == 1


@pytest.fixture
def lose_answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Arranges that the connection breaks after the next commit and before its answer arrives."""

    original = Database._once
    armed: list[bool] = []

    def once(self: Database, work: Callable[[Connection], Any], timeout_s: float) -> Any:
        answer = original(self, work, timeout_s)
        if armed:
            armed.clear()
            self._connection().close()
            raise psycopg.OperationalError("the connection is lost")
        return answer

    def arrange() -> None:
        monkeypatch.setattr(Database, "_once", once)
        armed.append(True)

    return arrange


def test_a_reservation_whose_answer_was_lost_is_taken_over(
    vault: PostgresVault, lose_answer: Callable[[], None]
) -> None:
    request = registration("ada@example.com", 1)
    lose_answer()

    assert vault.reserve([request], now_us=NOW_US) == [Reserved(1, request.reservation_id, repeated=True)]


def test_an_apply_whose_answer_was_lost_is_not_done_twice(
    read_model: PostgresReadModel, lose_answer: Callable[[], None]
) -> None:
    generation = read_model.prepare(Oddities(), now_us=NOW_US)
    lose_answer()

    late = read_model.apply(Oddities(), generation, [], checkpoint=5, events=5)

    assert late is None, "the projector looks up how far it came"
    assert [(g.checkpoint, g.events) for g in read_model.generations(Oddities())] == [(5, 5)]


def test_threads_that_have_ended_give_their_connections_back(postgres_url: str, vault: PostgresVault) -> None:
    for _ in range(10):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(vault.holder, "ada@example.com").result(DEADLINE_S)

    count = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'es'"
    )
    eventually(lambda: execute(postgres_url, count) <= [(2,)], "connections are closed")


def _unavailable(call: Callable[[], object], said: str | None = None) -> None:
    with pytest.raises(PartUnavailable, match=said):
        call()


# --- a server that is down -------------------------------------------------------------------


def test_a_server_that_is_down_is_unavailable_at_once_and_works_when_it_is_back(
    server: Server, own_url: str
) -> None:
    with closing(PostgresVault(own_url, kek=KEK)) as vault, closing(PostgresReadModel(own_url)) as read_model:
        register(vault, 1)
        generation = read_model.prepare(Oddities(), now_us=NOW_US)
        calls: list[Callable[[], object]] = [
            lambda: vault.holder("user1@example.com"),
            lambda: register(vault, 2),
            lambda: vault.data_keys([1]),
            lambda: read_model.rows(Oddities()),
            lambda: read_model.apply(Oddities(), generation, [], checkpoint=1, events=0),
            lambda: PostgresVault(own_url, kek=KEK),
        ]
        server.stop()

        for call in calls:
            assert_within(2.0, lambda call=call: _unavailable(call, "PostgreSQL at "))  # type: ignore[misc]

        server.start()
        assert vault.holder("user1@example.com") == 1
        assert isinstance(register(vault, 2)[0], Reserved)
        assert read_model.rows(Oddities()) == []


def test_a_server_that_does_not_answer_is_unavailable_after_the_connect_timeout(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert postgres._DEFAULTS["connect_timeout"] == postgres.CONNECT_TIMEOUT_S
    monkeypatch.setitem(postgres._DEFAULTS, "connect_timeout", 2)  # the least that libpq takes
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert_within(5.0, lambda: _unavailable(lambda: PostgresVault(server.url, kek=KEK)))
    finally:
        os.kill(pid, signal.SIGCONT)


def test_without_the_driver_the_error_says_what_to_install() -> None:
    code = """
import sys
sys.modules["psycopg"] = None
from domain.kernel.errors import PartUnavailable
try:
    import adapters.postgres.vault
except PartUnavailable as error:
    print(error.hint)
"""
    out, err = start_python(code).communicate(timeout=DEADLINE_S)

    assert (err, "pip install" in out) == ("", True)


# --- wrong URLs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://root:{secret}@127.0.0.1:1/es", "Connection refused"),
        ("postgresql://root:{secret}@no-such-host.invalid/es", "no-such-host.invalid"),
        ("postgresql:///es?host=/nowhere&password={secret}", "/nowhere"),
    ],
)
def test_a_server_that_cannot_be_reached_is_named_without_the_password(url: str, said: str) -> None:
    with pytest.raises(PartUnavailable, match=said) as raised:
        PostgresVault(url.format(secret=CANARY), kek=KEK)

    _assert_silent(raised.value)


def test_a_database_that_does_not_exist_is_named(server: Server) -> None:
    url = with_option(server.url.replace("/postgres?", "/no_such_base?"), f"password={CANARY}")

    with pytest.raises(PartUnavailable, match='database "no_such_base" does not exist') as raised:
        PostgresVault(url, kek=KEK)

    _assert_silent(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:",
        f"postgresql://es:{CANARY}/x@localhost/es",
        f"postgresql://es:12/{CANARY}@localhost/es",
        f"postgresql://es:x@{CANARY}@localhost/es",
        f"postgresql://es@localhost/es?passwort={CANARY}",
        f"postgresql://es:%zz{CANARY}@localhost/es",
    ],
)
def test_a_url_that_cannot_be_read_is_invalid_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        PostgresVault(url, kek=KEK)

    _assert_silent(raised.value)


@pytest.mark.parametrize("name", ["a%25b", "a%b", "a'b", 'a"b', "a$$b", "a b", "ä", "pg_es", "", "x" * 51])
@pytest.mark.parametrize("opened", [partial(PostgresVault, kek=KEK), PostgresReadModel])
def test_a_schema_that_could_not_be_used_is_refused_before_anything_is_made(
    postgres_database: str, opened: Callable[[str], object], name: str
) -> None:
    with pytest.raises(InvalidSetting, match="schema") as raised:
        opened(with_option(postgres_database, f"schema={name}"))

    assert "1 to 50" in str(raised.value)


@pytest.mark.parametrize("name", ["Es-2_x", "select", "x" * 50])
def test_a_schema_is_named_by_letters_digits_and_dashes(postgres_database: str, name: str) -> None:
    url = with_option(postgres_database, f"schema={name}")
    try:
        with closing(PostgresVault(url, kek=KEK)) as vault, closing(PostgresReadModel(url)) as read_model:
            register(vault, 1)
            vault.destroy_key(1, process="erasures", position=1)
            read_model.prepare(Oddities(), now_us=NOW_US)

        made = "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%_vault' OR nspname LIKE '%_read_models'"
        assert {(f"{name}_vault",), (f"{name}_read_models",)} <= set(execute(postgres_database, made))
    finally:
        for part in ("vault", "read_models"):
            execute(postgres_database, f'DROP SCHEMA IF EXISTS "{name}_{part}" CASCADE')


def _assert_silent(error: EsError) -> None:
    shown = [str(error), repr(error), str(error.to_wire()), *traceback.format_exception(error)]
    assert not [text for text in shown if CANARY in text]


# --- bugs and outages ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "arguments", "expected"),
    [
        ("INSERT INTO {schema}.notes(id, no_column) VALUES(1, %s)", (CANARY,), errors.UndefinedColumn),
        ("INSERT INTO {schema}.notes VALUES(1, %s", (CANARY,), errors.SyntaxError),
        ("INSERT INTO {schema}.notes VALUES(1, %s), (1, '')", (CANARY,), errors.UniqueViolation),
        (
            "INSERT INTO {schema}.notes VALUES(%s::text::integer, '')",
            (CANARY,),
            errors.InvalidTextRepresentation,
        ),
        ("INSERT INTO {schema}.notes VALUES(1, %s)", (f"{CANARY}\0",), psycopg.DataError),
        ("INSERT INTO {schema}.notes VALUES(1, %s)", (CANARY, 2), psycopg.ProgrammingError),
    ],
)
@pytest.mark.parametrize("how", ["read", "write"])
def test_a_wrong_statement_is_a_bug_and_no_outage_and_tells_its_place_and_no_value(
    notes: Database, how: str, statement: str, arguments: tuple[object, ...], expected: type[Exception]
) -> None:
    def wrong(connection: Connection) -> list[tuple[Any, ...]]:
        return connection.execute(notes.sql(statement) + " RETURNING id", arguments).fetchall()

    with pytest.raises(expected) as raised:
        getattr(notes, how)(wrong)

    assert not isinstance(raised.value, EsError), "or followers would wait for it to pass"
    told = describe(raised.value)
    assert told["error"] == expected.__name__
    assert [place for place in told["at"] if place.startswith("test_postgres.py")]
    assert CANARY not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    "sqlstate", ["08006", "25P03", "40003", "53200", "53300", "53400", "55006", "57P02", "58030", "XX000"]
)
def test_trouble_of_the_server_is_an_outage_and_told_without_a_value(notes: Database, sqlstate: str) -> None:
    trouble = f"DO $$BEGIN RAISE '{CANARY}' USING ERRCODE = '{sqlstate}'; END$$"

    with pytest.raises(PartUnavailable) as raised:
        notes.write(lambda c: c.execute(trouble))

    assert CANARY not in str(raised.value) + raised.value.hint


def test_a_statement_that_was_cancelled_is_not_told_as_a_lost_connection(notes: Database) -> None:
    notes.read(lambda c: c.execute("SET statement_timeout = 20"))

    _unavailable(lambda: notes.read(lambda c: c.execute("SELECT pg_sleep(60)")), "was cancelled")

    assert notes.read(lambda c: one(c, "SHOW statement_timeout")) == "20ms", "the connection is the same"


def test_a_server_that_only_reads_is_unavailable_and_the_hint_says_why(
    postgres_url: str, vault: PostgresVault
) -> None:
    url = with_option(postgres_url, "options=-c%20default_transaction_read_only%3Don")

    with (
        closing(PostgresVault(url, kek=KEK)) as standby,
        pytest.raises(PartUnavailable, match="read-only") as raised,
    ):
        register(standby, 1)

    assert "standby" in raised.value.hint


def test_a_connection_that_only_reads_is_given_up_so_that_the_next_call_finds_who_writes(
    server: Server, own_url: str
) -> None:
    PostgresVault(own_url, kek=KEK).close()
    (name,) = execute(own_url, "SELECT current_database()")[0]
    execute(server.url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with closing(PostgresVault(own_url, kek=KEK)) as vault:
        assert vault.holder("user1@example.com") is None, "looking works, and the connection is kept for it"
        execute(server.url, f"ALTER DATABASE {name} RESET default_transaction_read_only")

        _unavailable(lambda: register(vault, 1), "read-only")

        assert isinstance(register(vault, 1)[0], Reserved)


def test_the_facts_of_a_standby_are_refused_with_what_to_do(server: Server) -> None:
    signal_file = server.folder / "data" / "standby.signal"
    assert server_facts(server.url, now_us=lambda: NOW_US)[0].startswith("PostgreSQL ")
    server.stop()
    signal_file.touch()
    try:
        server.start()
        with pytest.raises(PartUnavailable, match="read-only") as raised:
            server_facts(server.url, now_us=lambda: NOW_US)
        server.stop()
    finally:
        signal_file.unlink()

    assert "target_session_attrs" in raised.value.hint


# --- durability and locks --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by_default", "of_vault", "of_read_models"),
    [("off", "on", "off"), ("on", "on", "off"), ("remote_apply", "remote_apply", "off")],
)
def test_a_commit_of_the_vault_is_durable_whatever_the_server_has_set(
    own_url: str, by_default: str, of_vault: str, of_read_models: str
) -> None:
    (name,) = execute(own_url, "SELECT current_database()")[0]
    execute(own_url, f"ALTER DATABASE {name} SET synchronous_commit = {by_default}")

    with closing(PostgresVault(own_url, kek=KEK)) as vault, closing(PostgresReadModel(own_url)) as read_model:
        assert setting(vault._database, "synchronous_commit") == of_vault
        assert setting(read_model._database, "synchronous_commit") == of_read_models


_ONE = UUID(int=1)


@pytest.mark.parametrize(
    ("write", "survived"),
    [
        (lambda v: register(v, 2), lambda v: 2 in v.data_keys([2])),
        (lambda v: v.confirm([_ONE]), lambda v: v.claims_of(1, now_us=0)[0].state is ClaimState.CONFIRMED),
        (lambda v: v.release([_ONE]), lambda v: v.claims_of(1, now_us=0) == []),
        (lambda v: v.abandon_registration(1, _ONE), lambda v: v.data_keys([1]) == {1: DestroyedKey()}),
        (
            lambda v: v.destroy_key(1, process="erasures", position=9),
            lambda v: (v.data_keys([1]), v.checkpoint("erasures")) == ({1: DestroyedKey()}, 9),
        ),
        (lambda v: v.save_checkpoint("erasures", 9), lambda v: v.checkpoint("erasures") == 9),
        (lambda v: v.rewind_checkpoint("erasures", 3), lambda v: v.checkpoint("erasures") == 3),
    ],
    ids=["reserve", "confirm", "release", "abandon", "destroy", "save", "rewind"],
)
def test_what_the_vault_wrote_survives_a_crash_whatever_its_session_was_left_with(
    server: Server,
    own_url: str,
    write: Callable[[PostgresVault], object],
    survived: Callable[[PostgresVault], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        PostgresVault, "purge", lambda self: True
    )  # it waits for the log, and by that for all
    with closing(PostgresVault(own_url, kek=KEK)) as vault:
        vault.reserve([ClaimRequest("ada@example.com", 1, _ONE, _ONE, registers=True)], now_us=NOW_US)
        vault.save_checkpoint("erasures", 5)
        # A pooler hands on the session of somebody else, with what that had set.
        vault._database.read(lambda c: c.execute("SET synchronous_commit = off"))

        with server.crashing():
            write(vault)

        assert survived(vault)


def test_nothing_is_prepared_in_a_session_that_a_pooler_may_give_to_somebody_else(
    vault: PostgresVault, read_model: PostgresReadModel
) -> None:
    for _ in range(10):  # the driver prepares by itself what it has seen a few times
        vault.save_checkpoint("erasures", vault.checkpoint("erasures") + 1)
        read_model.generations(Oddities())

    for database in (vault._database, read_model._database):
        assert database.read(lambda c: one(c, "SELECT count(*) FROM pg_prepared_statements")) == 0


def test_a_crash_may_lose_rows_and_checkpoint_together_and_no_generation(
    server: Server, own_url: str
) -> None:
    with closing(PostgresReadModel(own_url)) as read_model:
        with server.crashing():
            generation = read_model.prepare(Oddities(), now_us=NOW_US)
        with server.crashing():
            _moved(read_model, generation, [Put(1, {"from": "lost"})])

        assert read_model.generations(Oddities()) == [generation]
        assert read_model.rows(Oddities()) == []

        with server.crashing():
            building = read_model.begin_rebuild(Oddities(), now_us=NOW_US)
        with server.crashing():
            assert read_model.promote(Oddities(), building, now_us=NOW_US)

        states = [generation.state for generation in read_model.generations(Oddities())]
        assert states == [GenerationState.RETIRED, GenerationState.CURRENT]


def test_a_lock_that_is_not_given_up_makes_unavailable_instead_of_waiting_for_ever(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT_MS", 100)
    with (
        closing(Database(postgres_url, part="vault", migrations=[_NOTES])) as notes,
        _locked(postgres_url, notes.sql("LOCK TABLE {schema}.notes")),
    ):
        look, insert = (
            notes.sql("TABLE {schema}.notes"),
            notes.sql("INSERT INTO {schema}.notes VALUES(1, 'x')"),
        )
        assert_within(
            2.0, lambda: _unavailable(lambda: notes.read(lambda c: c.execute(look)), "stayed locked")
        )
        notes.read(lambda c: c.execute("SET lock_timeout = 0"))  # as a pooler may
        assert_within(
            2.0, lambda: _unavailable(lambda: notes.write(lambda c: c.execute(insert)), "stayed locked")
        )


@contextmanager
def _locked(url: str, *statements: str, commit: bool = False) -> Iterator[None]:
    """A transaction of somebody else that has run these statements and stays open."""
    with closing(psycopg.connect(url.partition("schema=")[0].rstrip("?&"))) as other:
        for statement in statements:
            other.execute(statement)
        yield
        other.commit() if commit else other.rollback()


def test_a_key_is_destroyed_with_its_claims_and_the_checkpoint_or_not_at_all(
    postgres_url: str, vault: PostgresVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(vault, 1)
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT_MS", 100)
    for table in ("email_claims", "data_keys", "checkpoints"):  # whichever of the three can't be written
        with _locked(postgres_url, f"LOCK TABLE {vault._database.schema}.{table} IN EXCLUSIVE MODE"):
            _unavailable(lambda: vault.destroy_key(1, process="erasures", position=9), "stayed locked")

        assert isinstance(vault.data_keys([1])[1], LivingKey)
        assert vault.holder("user1@example.com") == 1
        assert vault.checkpoint("erasures") == 0


def test_what_comes_in_an_order_is_sorted_and_not_so_by_luck(read_model: PostgresReadModel) -> None:
    for way in ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"):
        # Rows come as they lie, and not in the order of an index that finds them.
        read_model._database.read(lambda c, way=way: c.execute(f"SET {way} = off"))  # type: ignore[misc]
    first = read_model.prepare(Oddities(), now_us=NOW_US)
    second = read_model.begin_rebuild(Oddities(), now_us=NOW_US)
    backwards = [3, 2, 1]

    moved = read_model.apply(
        Oddities(),
        first,
        [Put(key, {"from": "x"}) for key in backwards],
        checkpoint=3,
        events=3,
        parked=[Parked(position, "thing-1", "not readable") for position in backwards],
    )

    assert moved is not None
    lying = read_model._sql("SELECT {key} FROM {table}", Oddities(), first.number)
    assert [key for (key,) in read_model._all(lying, ())] == backwards
    assert [row["order"] for row in read_model.rows(Oddities())] == [1, 2, 3]
    assert [row["order"] for row in read_model.rows(Oddities(), keys=backwards)] == [1, 2, 3]
    assert [row["order"] for row in read_model.rows(Oddities(), limit=2)] == [1, 2]
    assert [each.position for each in read_model.parked(Oddities(), moved)] == [1, 2, 3]
    assert read_model.generations(Oddities()) == [moved, second]


def test_a_generation_is_not_promoted_over_one_that_gets_ahead_at_that_moment(
    postgres_url: str, read_model: PostgresReadModel
) -> None:
    current = read_model.prepare(Oddities(), now_us=NOW_US)
    built = read_model.begin_rebuild(Oddities(), now_us=NOW_US)
    # A projector that has applied an event to the current one, and hasn't committed yet.
    ahead = (
        f"UPDATE {read_model._database.schema}.generations SET checkpoint = 1 WHERE number = {current.number}"
    )
    with ThreadPoolExecutor(1) as pool:
        with _locked(postgres_url, ahead, commit=True):
            promoted = pool.submit(read_model.promote, Oddities(), built, now_us=NOW_US)
            eventually(lambda: _somebody_waits(postgres_url), "the promotion waits")

        assert promoted.result(DEADLINE_S) is False

    assert read_model.prepare(Oddities(), now_us=NOW_US).number == current.number


def test_batches_for_the_same_addresses_in_any_order_never_deadlock(server: Server, own_url: str) -> None:
    addresses = [f"shared{number}@example.com" for number in range(40)]
    starting = threading.Barrier(4)
    with closing(PostgresVault(own_url, kek=KEK)) as vault:

        def contend(worker: int) -> list[ClaimAnswer]:
            answers: list[ClaimAnswer] = []
            for turn in range(10):
                order = addresses if worker % 2 else addresses[::-1]
                starting.wait(DEADLINE_S)
                answers += vault.reserve(
                    [
                        registration(f"{turn}.{email}", 1 + (worker * 10 + turn) * 40 + number)
                        for number, email in enumerate(order)
                    ],
                    now_us=NOW_US,
                )
            return answers

        with ThreadPoolExecutor(4) as pool:
            answers = [answer for answers in pool.map(contend, range(4)) for answer in answers]

        winners = {answer.subject for answer in answers if isinstance(answer, Reserved)}
        assert len(winners) == 10 * len(addresses)
        assert {answer.subject for answer in answers} == winners
        assert sum(isinstance(answer, HeldByOther) for answer in answers) == 3 * len(winners)
        assert set(vault.data_keys(range(1, 1601))) == winners, "the losers got no key"
    assert "deadlock detected" not in (server.folder / "log").read_text()


def test_one_registration_with_two_addresses_at_once_is_one_registration(vault: PostgresVault) -> None:
    starting = threading.Barrier(2)

    def ask(command_and_subject: tuple[Any, int]) -> ClaimAnswer:
        command, subject = command_and_subject
        starting.wait(DEADLINE_S)
        request = ClaimRequest(f"address{subject}@example.com", subject, command, uuid4(), registers=True)
        return vault.reserve([request], now_us=NOW_US)[0]

    with ThreadPoolExecutor(2) as pool:
        for turn in range(0, 40, 2):
            command = uuid4()
            answers = list(pool.map(ask, [(command, turn + 1), (command, turn + 2)]))

            (winner,) = {answer.subject for answer in answers}
            assert {type(answer) for answer in answers} == {Reserved, AlreadyHeld}
            assert set(vault.data_keys([turn + 1, turn + 2])) == {winner}


# --- read models -----------------------------------------------------------------------------


def test_names_of_a_projection_may_be_words_of_sql(read_model: PostgresReadModel) -> None:
    generation = read_model.prepare(Oddities(), now_us=NOW_US)
    operations = [Put(1, {"from": "a", "Size; --": 1}), Put(2, {"from": "b", "Size; --": 2})]

    read_model.apply(Oddities(), generation, operations, checkpoint=2, events=2)

    assert read_model.rows(Oddities(), where={"Size; --": 2}) == [{"order": 2, "from": "b", "Size; --": 2}]


def test_a_name_that_postgresql_would_cut_is_refused(read_model: PostgresReadModel) -> None:
    class Long(Oddities):
        name: ClassVar[str] = "x" * 61

    with pytest.raises(ValueError, match="too long"):
        read_model.prepare(Long(), now_us=NOW_US)


@pytest.mark.parametrize("text", ["\0", "\\", "\\0", "\\\\0", "a\\\0b\\\\", "\\\0\\0\0"])
def test_text_that_postgresql_cannot_hold_comes_back_as_it_was(
    read_model: PostgresReadModel, text: str
) -> None:
    generation = read_model.prepare(Oddities(), now_us=NOW_US)
    moved = read_model.apply(
        Oddities(), generation, [Put(1, {"from": text, "Size; --": 0})], checkpoint=1, events=1
    )

    assert moved is not None
    assert [row["from"] for row in read_model.rows(Oddities(), where={"from": text})] == [text]


def test_a_put_replaces_the_whole_row_and_changes_keep_their_order(read_model: PostgresReadModel) -> None:
    generation = read_model.prepare(Oddities(), now_us=NOW_US)
    first: list[Operation] = [
        Put(1, {"from": "a", "Size; --": 1}),
        Change(2, {"from": "lost"}),
        Change(1, {"from": "b"}),
    ]
    second: list[Operation] = [
        Change(1, {"Size; --": 7}),
        Change(1, {"from": "c"}),
        Put(2, {"from": "only this"}),
    ]

    generation = _moved(read_model, generation, first)
    generation = _moved(read_model, generation, second)
    _moved(read_model, generation, [Put(1, {"Size; --": 9})])

    assert read_model.rows(Oddities()) == [
        {"order": 1, "from": None, "Size; --": 9},
        {"order": 2, "from": "only this", "Size; --": None},
    ]


def _moved(
    read_model: PostgresReadModel, generation: Generation, operations: Sequence[Operation]
) -> Generation:
    checkpoint = generation.checkpoint + 1
    moved = read_model.apply(Oddities(), generation, operations, checkpoint=checkpoint, events=1)
    assert moved is not None
    return moved


def test_a_reader_whose_generation_was_removed_under_its_hands_reads_the_successor(
    read_model: PostgresReadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = [read_model.prepare(Oddities(), now_us=NOW_US)]
    built = _moved(read_model, read_model.begin_rebuild(Oddities(), now_us=NOW_US), [Put(1, {"from": "new"})])
    assert read_model.promote(Oddities(), built, now_us=NOW_US)
    read_model.begin_rebuild(Oddities(), now_us=NOW_US)  # removes the one that the reader has looked up
    find = PostgresReadModel._find

    def late(*arguments: Any) -> Generation | None:
        return looked_up.pop() if looked_up else find(read_model, *arguments)

    monkeypatch.setattr(read_model, "_find", late)

    assert [row["from"] for row in read_model.rows(Oddities())] == ["new"]
    assert not looked_up


@pytest.fixture
def rebuilt(read_model: PostgresReadModel) -> Generation:
    """The live generation of a model with one row; before it there is a retired one that the next rebuild removes."""
    retired = _moved(read_model, read_model.prepare(Oddities(), now_us=NOW_US), [Put(1, {"from": "old"})])
    built = _moved(read_model, read_model.begin_rebuild(Oddities(), now_us=NOW_US), [Put(1, {"from": "new"})])
    assert read_model.promote(Oddities(), built, now_us=NOW_US)
    assert [each.number for each in read_model.generations(Oddities())] == [retired.number, built.number]
    return read_model.prepare(Oddities(), now_us=NOW_US)


def _reading_for_long(url: str, read_model: PostgresReadModel, number: int) -> AbstractContextManager[None]:
    """Somebody, a backup maybe, who keeps a generation from being removed."""
    return _locked(url, read_model._sql("TABLE {table}", Oddities(), number))


def _somebody_waits(url: str) -> bool:
    waiting = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return bool(execute(url, waiting))


def test_queries_and_projectors_go_on_while_a_rebuild_waits_for_a_long_reader(
    postgres_url: str, read_model: PostgresReadModel, rebuilt: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_postgres, "_DROP_WAIT_MS", int(DEADLINE_S) * 1000)
    with ThreadPoolExecutor(1) as pool:
        with _reading_for_long(postgres_url, read_model, 1):
            begun = pool.submit(read_model.begin_rebuild, Oddities(), now_us=NOW_US)
            eventually(lambda: _somebody_waits(postgres_url), "the rebuild waits")

            assert [row["from"] for row in read_model.rows(Oddities())] == ["new"]
            assert read_model.prepare(Oddities(), now_us=NOW_US) == rebuilt
            assert len(read_model.generations(Oddities())) == 2
            _moved(read_model, rebuilt, [Put(2, {"from": "newer"})])
            assert [row["from"] for row in read_model.rows(Oddities())] == ["new", "newer"]
            assert not begun.done()

        assert begun.result(DEADLINE_S).number == 3


def test_a_query_that_meets_a_waiting_rebuild_is_answered_when_that_gives_up(
    postgres_url: str, read_model: PostgresReadModel, rebuilt: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_model.generations(Oddities())
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT_MS", int(DEADLINE_S) * 1000)  # of what begins from now on
    with ThreadPoolExecutor(1) as pool, _reading_for_long(postgres_url, read_model, 1):
        begun = pool.submit(read_model.begin_rebuild, Oddities(), now_us=NOW_US)
        eventually(lambda: _somebody_waits(postgres_url), "the rebuild waits")
        # A query that has looked up the live generation just before another took its place.
        monkeypatch.setattr(read_model, "_find", lambda *_: before[0])

        assert [row["from"] for row in read_model.rows(Oddities())] == ["old"]

        _unavailable(lambda: begun.result(DEADLINE_S), "stayed locked")
    assert read_model.generations(Oddities()) == before


def test_the_number_of_a_generation_is_never_used_twice(read_model: PostgresReadModel) -> None:
    numbers = [read_model.prepare(Oddities(), now_us=NOW_US).number]
    for _ in range(3):
        built = read_model.begin_rebuild(Oddities(), now_us=NOW_US)
        assert read_model.promote(Oddities(), built, now_us=NOW_US)
        numbers.append(built.number)

    assert numbers == [1, 2, 3, 4]


# --- no residue ------------------------------------------------------------------------------


def secrets_of(url: str, subjects: Sequence[int]) -> list[bytes]:
    """The wrapped keys and the tags of these people."""
    chosen = ", ".join(map(str, subjects))
    keys = execute(
        url, f"SELECT wrapped FROM es_vault.data_keys WHERE subject IN ({chosen}) ORDER BY subject"
    )
    tags = execute(url, f"SELECT tag FROM es_vault.email_claims WHERE subject IN ({chosen})")
    found = [bytes(value) for (value,) in [*keys, *tags] if isinstance(value, bytes)]
    assert len(found) == 2 * len(subjects)
    return found


def found_in_files(server: Server, url: str, needles: Sequence[bytes]) -> list[bytes]:
    """Which of these are in any file of the database: tables, indexes, statistics, what was left over."""
    execute(url, "CHECKPOINT")  # what is only in memory would go unseen, and dropped files are removed by it
    ((oid,),) = execute(url, "SELECT oid FROM pg_database WHERE datname = current_database()")
    folder = server.folder / "data" / "base" / str(oid)
    content = b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())
    return [needle for needle in needles if needle in content or needle[:20] in content]


@pytest.fixture
def crowded(own_url: str) -> Iterator[PostgresVault]:
    """600 people, registered out of order, confirmed, with statistics taken of them."""
    with closing(PostgresVault(own_url, kek=KEK)) as vault:
        for start in range(0, 600, 50):
            answers = register(vault, *((number * 7919) % 600 + 1 for number in range(start, start + 50)))
            vault.confirm([a.reservation_id for a in answers if isinstance(a, Reserved)])
        execute(own_url, "VACUUM ANALYZE")
        yield vault


def test_a_wrapped_key_and_a_tag_are_in_no_file_of_the_tables_after_the_key_was_destroyed(
    server: Server, own_url: str, crowded: PostgresVault
) -> None:
    victims = [*range(1, 12), 300, 301, 599, 600]
    gone = secrets_of(own_url, victims)
    assert found_in_files(server, own_url, gone) == gone, "the search finds what is there"

    for victim in victims:
        crowded.destroy_key(victim, process="erasures", position=victim)

    eventually(crowded.purge, "nothing prevents it")
    assert found_in_files(server, own_url, gone) == []
    kept = crowded.data_keys([12, 598])
    assert [type(key) for key in kept.values()] == [LivingKey, LivingKey]


def test_a_key_of_an_abandoned_registration_and_a_released_tag_are_purged_too(
    server: Server, own_url: str, crowded: PostgresVault
) -> None:
    gone = secrets_of(own_url, [7, 8])
    claims = [crowded.claims_of(subject, now_us=NOW_US)[0] for subject in (7, 8)]
    crowded.abandon_registration(7, claims[0].reservation_id)
    crowded.release([claims[1].reservation_id])

    eventually(crowded.purge, "nothing prevents it")

    (kept,) = found_in_files(server, own_url, gone)
    assert kept == gone[1], "the key of the person whose address was released alone"


@pytest.mark.parametrize(
    ("begin", "look"),
    [
        ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1"),  # may still see the row
        ("SELECT 1", "SELECT count(*) FROM es_vault.data_keys"),  # holds a lock
    ],
)
def test_a_reader_that_prevents_a_purge_makes_it_incomplete_and_the_next_one_finishes_it(
    server: Server, own_url: str, crowded: PostgresVault, begin: str, look: str
) -> None:
    gone = secrets_of(own_url, [1])
    with _locked(own_url, begin, look):
        with pytest.raises(PartUnavailable):
            crowded.destroy_key(1, process="erasures", position=1)

        assert crowded.data_keys([1]) == {1: DestroyedKey()}, "destroyed it is, at once"
        assert crowded.purge() is False

    eventually(crowded.purge, "nothing prevents it any more")
    assert found_in_files(server, own_url, gone) == []


def test_a_purge_that_was_cut_off_is_made_up_for_by_whoever_comes_next(
    server: Server, own_url: str, crowded: PostgresVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = secrets_of(own_url, [1])
    with monkeypatch.context() as crashing:
        crashing.setattr(PostgresVault, "purge", lambda self: False)
        with pytest.raises(PartUnavailable):
            crowded.destroy_key(1, process="erasures", position=1)
    assert found_in_files(server, own_url, gone) != []

    with closing(PostgresVault(own_url, kek=KEK)) as successor:
        eventually(successor.purge, "nothing prevents it")

    assert found_in_files(server, own_url, gone) == []
