"""PostgreSQL databases with another encoding and with settings of their own: the parts work, or name the setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from psycopg import errors

from adapters.postgres.connection import ANSWER_TIMEOUT_S, server_facts
from adapters.postgres.database import LOCK_TIMEOUT_MS, Database, one
from adapters.postgres.read_model import PostgresReadModel
from adapters.postgres.vault import PostgresVault
from domain.kernel.ports.read_model import Parked
from domain.kernel.ports.vault import DestroyedKey
from tests.support.postgres import a_database, execute, unavailable, with_option
from tests.support.read_models import NAMED, apply, prepared, put, rebuilding, row
from tests.support.vaults import ADA, KEK, NOW_US, destroy, holder, registered, secret_of
from tests.support.waiting import eventually

OpenNotes = Callable[..., Database]

HOSTILE = {
    "search_path": "''",
    "timezone": "'Pacific/Kiritimati'",
    "datestyle": "'German, DMY'",
    "intervalstyle": "'sql_standard'",
    "bytea_output": "'escape'",
    "standard_conforming_strings": "off",
    "backslash_quote": "on",
    "array_nulls": "off",
    "extra_float_digits": "-15",
    "transform_null_equals": "on",
    "xmloption": "'document'",
    "synchronous_commit": "off",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_deferrable": "on",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "lc_numeric": "'C'",
}


def options(encoding: str) -> str:
    return f"ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"


def set_for_all(url: str, settings: dict[str, str]) -> None:
    name = urlsplit(url).path[1:]
    for setting, value in settings.items():
        execute(url, f"ALTER DATABASE {name} SET {setting} = {value}")


@pytest.fixture(params=["SQL_ASCII", "UTF8", "LATIN1"])
def odd_url(postgres_database: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with another encoding, whose settings are not those that this program expects."""
    with a_database(postgres_database, options(request.param)) as url:
        set_for_all(url, HOSTILE)
        yield url


def use_vault_and_read_model(url: str, text: str = "\u20ac") -> None:
    """Register, destroy, apply, park, rebuild and read, each with its result."""
    with closing(PostgresVault(url, kek=KEK)) as vault, closing(PostgresReadModel(url)) as read_model:
        registered(vault, 1, ADA)
        registered(vault, 2, "grace@example.com")
        destroy(vault, 2)
        assert (holder(vault, ADA), len(secret_of(vault, 1))) == (1, 32)
        assert isinstance(vault.data_keys([2])[2], DestroyedKey)
        generation = prepared(read_model, NAMED)
        parked = [Parked(1, "thing", text)]
        after = apply(read_model, generation, put(text, "\\0", None), projection=NAMED, parked=parked)
        assert after is not None
        assert read_model.parked(NAMED, after) == parked
        rebuilt = apply(read_model, rebuilding(read_model, NAMED), put(text, text), projection=NAMED)
        assert rebuilt is not None
        assert read_model.promote(NAMED, rebuilt, now_us=NOW_US)
        assert read_model.rows(NAMED, keys=[text]) == [row(text, text)]
        assert read_model.rows(NAMED, generation=after) == [row(text, "\\0", None)]


def test_another_encoding_and_other_settings_of_a_database_change_nothing(odd_url: str) -> None:
    use_vault_and_read_model(odd_url, "\u00e9")

    version, ahead_us = server_facts(odd_url, now_us=lambda: NOW_US)
    assert version.startswith("PostgreSQL ")
    assert ahead_us > 0, "the test's clock is in the past"


def test_an_encoding_in_the_environment_or_the_url_is_overruled(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
    monkeypatch.setenv("PGOPTIONS", "-c client_encoding=LATIN1")

    use_vault_and_read_model(with_option(postgres_url, "client_encoding=LATIN2"))
    with closing(PostgresReadModel(postgres_url)) as read_model:
        assert read_model.rows(NAMED), "rows with characters beyond both encodings were kept"


def test_a_character_that_the_database_cannot_store_is_a_wrong_value(postgres_database: str) -> None:
    with (
        a_database(postgres_database, options("LATIN1")) as url,
        closing(PostgresReadModel(url)) as read_model,
    ):
        generation = prepared(read_model, NAMED)

        with pytest.raises(ValueError, match="encoding of the database"):
            apply(read_model, generation, put("Łódź"), projection=NAMED)

        assert apply(read_model, generation, put("Lodz"), projection=NAMED)


def test_every_transaction_sets_its_durability_and_time_limits(
    postgres_url: str, open_notes: OpenNotes
) -> None:
    notes = open_notes()
    names = ("synchronous_commit", "lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    hostile = (
        "SELECT set_config('synchronous_commit', 'off', false), set_config('statement_timeout', '1ms', false)"
    )
    notes.read(lambda c: c.execute(hostile))

    def shown(connection: Any) -> list[str]:
        return [one(connection, "SELECT current_setting(%s)", name) for name in names]

    limit = f"{ANSWER_TIMEOUT_S + 1:.0f}s"
    assert notes.write(shown) == ["on", f"{LOCK_TIMEOUT_MS // 1000}s", limit, limit]


_SLOW = """CREATE FUNCTION {schema}.slow(number integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_sleep(1); RETURN number; END';
    INSERT INTO {schema}.notes VALUES(1, 'x'); CREATE INDEX ON {schema}.notes({schema}.slow(id))"""


def test_a_purge_is_not_cut_short_by_a_statement_timeout(open_notes: OpenNotes) -> None:
    notes = open_notes(_SLOW)
    notes.read(lambda c: c.execute("SET statement_timeout = '500ms'"))

    assert notes.rewrite("notes", lock_wait_ms=1000), "it computes the index again, which takes a second"


def test_a_session_that_the_server_ended_for_its_idleness_is_opened_again(
    postgres_url: str, notes: Database
) -> None:
    pid = notes.read(lambda c: one(c, "SELECT pg_backend_pid()"))
    notes.read(lambda c: c.execute("SET idle_session_timeout = 1"))
    alive = f"SELECT FROM pg_stat_activity WHERE pid = {pid}"
    eventually(lambda: not execute(postgres_url, alive), "the server ended the session")

    assert notes.read(lambda c: one(c, "SELECT pg_backend_pid()")) != pid


def test_a_query_that_a_setting_of_the_role_cancels_names_the_setting(open_notes: OpenNotes) -> None:
    notes = open_notes()
    notes.read(lambda c: c.execute("SET statement_timeout = '1ms'"))

    error = unavailable(lambda: notes.read(lambda c: c.execute("SELECT pg_sleep(1)")), "cancelled")

    assert "statement_timeout" in error.hint


@pytest.mark.parametrize("ended", [errors.TransactionTimeout, errors.IdleSessionTimeout])
def test_a_session_that_a_setting_ends_again_and_again_names_the_setting(
    notes: Database, ended: type[errors.OperationalError]
) -> None:
    def work(_: object) -> None:
        raise ended

    assert "_timeout" in unavailable(lambda: notes.read(work), "ended the session").hint
