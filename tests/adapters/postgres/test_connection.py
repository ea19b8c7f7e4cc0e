"""PostgreSQL connections: URLs, servers that are down, silent or read-only, and no password in any error."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest

from adapters.postgres import connection as postgres
from adapters.postgres.connection import server_facts
from adapters.postgres.read_model import PostgresReadModel
from adapters.postgres.vault import PostgresVault
from domain.kernel.errors import EsError, InvalidInput, InvalidSetting, PartUnavailable
from domain.kernel.ports.vault import Reserved
from tests.support.postgres import Server, execute, unavailable, with_option
from tests.support.processes import start_python
from tests.support.read_models import THINGS, apply, prepared
from tests.support.vaults import KEK, NOW_US, destroy, holder, register
from tests.support.waiting import DEADLINE_S, assert_within

CANARY = "canary_77aa"
open_vault = partial(PostgresVault, kek=KEK)


def assert_silent(error: EsError) -> None:
    shown = [str(error), repr(error), str(error.to_wire()), *traceback.format_exception(error)]
    assert not [text for text in shown if CANARY in text]


# --- a server that is down -------------------------------------------------------------------


def test_a_stopped_server_is_unavailable_at_once_and_works_after_its_start(
    server: Server, own_url: str
) -> None:
    with closing(open_vault(own_url)) as vault, closing(PostgresReadModel(own_url)) as read_model:
        register(vault, 1)
        generation = prepared(read_model)
        calls: list[Callable[[], object]] = [
            lambda: holder(vault, "user1@example.com"),
            lambda: register(vault, 2),
            lambda: vault.data_keys([1]),
            lambda: read_model.rows(THINGS),
            lambda: apply(read_model, generation, checkpoint=1),
            lambda: open_vault(own_url),
        ]
        server.stop()

        for call in calls:
            assert_within(2.0, partial(unavailable, call, "PostgreSQL at "))

        server.start()
        assert holder(vault, "user1@example.com") == 1
        assert isinstance(register(vault, 2)[0], Reserved)
        assert read_model.rows(THINGS) == []


def test_a_silent_server_is_unavailable_after_the_connect_timeout(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert postgres._DEFAULTS["connect_timeout"] == postgres.CONNECT_TIMEOUT_S
    monkeypatch.setitem(postgres._DEFAULTS, "connect_timeout", 2)  # the minimum of libpq
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert_within(5.0, partial(unavailable, lambda: open_vault(server.url)))
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_missing_driver_is_reported_with_the_command_to_install_it() -> None:
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
    ("url", "reason"),
    [
        ("postgresql://root:{secret}@127.0.0.1:1/es", "Connection refused"),
        ("postgresql://root:{secret}@no-such-host.invalid/es", "no-such-host.invalid"),
        ("postgresql:///es?host=/nowhere&password={secret}", "/nowhere"),
    ],
)
def test_an_unreachable_server_is_named_without_the_password(url: str, reason: str) -> None:
    with pytest.raises(PartUnavailable, match=reason) as raised:
        open_vault(url.format(secret=CANARY))

    assert_silent(raised.value)


def test_a_missing_database_is_named_without_the_password(server: Server) -> None:
    url = with_option(server.url.replace("/postgres?", "/no_such_base?"), f"password={CANARY}")

    with pytest.raises(PartUnavailable, match='database "no_such_base" does not exist') as raised:
        open_vault(url)

    assert_silent(raised.value)


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
def test_an_unreadable_url_is_invalid_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        open_vault(url)

    assert_silent(raised.value)


@pytest.mark.parametrize("name", ["a%25b", "a%b", "a'b", 'a"b', "a$$b", "a b", "ä", "pg_es", "", "x" * 51])
@pytest.mark.parametrize("opened", [open_vault, PostgresReadModel])
def test_an_unusable_schema_name_is_refused(
    postgres_database: str, opened: Callable[[str], object], name: str
) -> None:
    with pytest.raises(InvalidSetting, match="schema") as raised:
        opened(with_option(postgres_database, f"schema={name}"))

    assert "1 to 50" in str(raised.value)


@pytest.mark.parametrize("name", ["Es-2_x", "select", "x" * 50])
def test_a_schema_name_may_have_letters_digits_and_dashes(postgres_database: str, name: str) -> None:
    url = with_option(postgres_database, f"schema={name}")
    try:
        with closing(open_vault(url)) as vault, closing(PostgresReadModel(url)) as read_model:
            register(vault, 1)
            destroy(vault, 1)
            prepared(read_model)

        created = (
            "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%_vault' OR nspname LIKE '%_read_models'"
        )
        assert {(f"{name}_vault",), (f"{name}_read_models",)} <= set(execute(postgres_database, created))
    finally:
        for part in ("vault", "read_models"):
            execute(postgres_database, f'DROP SCHEMA IF EXISTS "{name}_{part}" CASCADE')


# --- read-only servers -----------------------------------------------------------------------


def test_a_read_only_server_is_unavailable_and_the_hint_names_a_standby(
    postgres_url: str, vault: PostgresVault
) -> None:
    url = with_option(postgres_url, "options=-c%20default_transaction_read_only%3Don")

    with closing(open_vault(url)) as standby:
        assert "standby" in unavailable(lambda: register(standby, 1), "read-only").hint


def test_a_read_only_connection_is_closed_and_the_next_call_reconnects(server: Server, own_url: str) -> None:
    open_vault(own_url).close()
    (name,) = execute(own_url, "SELECT current_database()")[0]
    execute(server.url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with closing(open_vault(own_url)) as vault:
        assert holder(vault, "user1@example.com") is None, "a query works and keeps the connection"
        execute(server.url, f"ALTER DATABASE {name} RESET default_transaction_read_only")

        unavailable(lambda: register(vault, 1), "read-only")

        assert isinstance(register(vault, 1)[0], Reserved)


def test_the_facts_of_a_standby_are_an_error_with_a_hint(server: Server) -> None:
    signal_file = server.folder / "data" / "standby.signal"
    assert server_facts(server.url, now_us=lambda: NOW_US)[0].startswith("PostgreSQL ")
    server.stop()
    signal_file.touch()
    try:
        server.start()
        error = unavailable(lambda: server_facts(server.url, now_us=lambda: NOW_US), "read-only")
        server.stop()
    finally:
        signal_file.unlink()

    assert "target_session_attrs" in error.hint
