"""Connect to PostgreSQL: the URL, the time limits, and the facts of the server.

Promise: a connection whose server does not answer is closed within its time limit. Refusal: no error shows a
password or repeats a URL.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from domain.kernel.errors import InvalidSetting, PartUnavailable

# Time out before the caller does (8 s), so that the reply can name the unavailable part. One request may use up
# the answer's time limit, and the next one, which waited behind it, the connection's.
CONNECT_TIMEOUT_S = 3
ANSWER_TIMEOUT_S = 4.0
"""The maximum silence of a server while a command waits. A server that hangs is noticed by nothing else: its
kernel still acknowledges packets and keepalives."""

# This program translates all errors. The log lines of psycopg would repeat the server's messages, with values.
logging.getLogger("psycopg").setLevel(logging.CRITICAL + 1)

# Used where the URL says nothing. With these the kernel reports a vanished server after about 15 s.
_DEFAULTS: dict[str, str | int] = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,  # ms
    "application_name": "es",
}
# A server, a database, a role, PGCLIENTENCODING or the URL may say otherwise, and the driver returns bytes instead of
# text if the encoding is SQL_ASCII. In the start-up message, because a pooler passes a session on to other clients.
_FIXED = {"client_encoding": "UTF8"}
_URL = "the URL of PostgreSQL"
_PREFIX_OPTION = "schema="  # `?schema=NAME` separates several systems in one database
# PostgreSQL cuts names at 63 bytes. Other characters have a meaning in SQL or for the driver, also inside a name.
_PREFIX = re.compile(r"(?!pg_)[A-Za-z0-9_-]{1,50}")

Parameters = dict[str, Any]
Cursor = psycopg.Cursor[tuple[Any, ...]]


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that is closed if the server does not answer in time."""

    answer_timeout_s = ANSWER_TIMEOUT_S
    timed_out = False

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.answer_timeout_s if timeout is None else timeout)
        except errors._WaitTimeout:
            self.timed_out = True
            self.close()  # before the rollback, which would wait for the same time again
            raise


def connect(parameters: Parameters, *, part: str) -> Connection:
    """A new connection with autocommit. Raises PartUnavailable, with libpq's reason."""
    try:
        # Prepare nothing: behind a pooler the next statement may reach another session.
        connection = Connection.connect(autocommit=True, prepare_threshold=None, **parameters)
    except psycopg.Error as error:
        raise PartUnavailable(part, f"{server_name(parameters)}: {_reason(error)}") from None
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return connection


def _reason(error: psycopg.Error) -> str:
    """The reason in libpq's words, which operators search for: the last clause of the first line."""
    return str(error).partition("\n")[0].rpartition("failed: ")[2].removeprefix("FATAL:").strip()


def parse_url(url: str) -> tuple[Parameters, str]:
    """The connection parameters of a URL, and the prefix of its schemas. Raises InvalidSetting."""
    address, _, query = url.partition("?")
    options = query.split("&") if query else []
    prefixes = [option for option in options if option.startswith(_PREFIX_OPTION)]
    others = "&".join(option for option in options if option not in prefixes)
    try:
        given = conninfo_to_dict(f"{address}?{others}" if others else address)
    except psycopg.Error:
        # Drop the cause: libpq quotes the part that it could not read, which may belong to a password.
        raise InvalidSetting(_URL, "cannot be read; percent-encode special characters") from None
    # An unescaped @ or / in a password makes the rest of it a host or a database, and errors show those.
    if any("@" in str(given.get(name, "")) for name in ("host", "dbname")):
        raise InvalidSetting(_URL, "has a second @; percent-encode special characters")
    if "#" in url.rpartition("@")[2]:  # libpq takes it for a part of the name of the database
        raise InvalidSetting(_URL, "contains a #; percent-encode special characters")
    if not re.fullmatch(r"[0-9,]*", str(given.get("port", ""))):
        raise InvalidSetting(_URL, "has a port that is no number; percent-encode special characters")
    prefix = prefixes[-1].removeprefix(_PREFIX_OPTION) if prefixes else "es"
    if not _PREFIX.fullmatch(prefix):
        raise InvalidSetting(
            _URL, "has a schema= that is not 1 to 50 letters, digits, _ or -, or that begins with pg_"
        )
    return {**_DEFAULTS, **given, **_FIXED}, prefix


def server_name(parameters: Parameters) -> str:
    """The server and the database, as errors name them."""
    host = parameters.get("host") or parameters.get("hostaddr") or "the local socket"
    port = parameters.get("port", "5432")
    return f"PostgreSQL at {host}:{port}, database {parameters.get('dbname', '(default)')}"


def read_only(part: str, parameters: Parameters) -> PartUnavailable:
    return PartUnavailable(
        part,
        f"{server_name(parameters)} is read-only",
        "If it is a standby, add target_session_attrs=read-write to the URL. In some clouds a full disk makes"
        " the server read-only.",
    )


def server_facts(url: str, *, now_us: Callable[[], int]) -> tuple[str, int]:
    """The version of the server, and the microseconds by which its clock is ahead of `now_us`.

    Raises PartUnavailable if the server cannot be reached or is read-only.
    """
    parameters, _ = parse_url(url)
    try:
        with closing(connect(parameters, part="PostgreSQL")) as connection:
            before_us = now_us()
            row = connection.execute(
                """SELECT current_setting('server_version'), extract(epoch FROM clock_timestamp()) * 1000000,
                          current_setting('transaction_read_only')::boolean"""
            ).fetchone()
            after_us = now_us()
    except psycopg.Error as error:
        raise PartUnavailable("PostgreSQL", "the connection was lost") from error
    version, server_us, is_read_only = row or ("", after_us, False)
    if is_read_only:
        raise read_only("PostgreSQL", parameters)
    return f"PostgreSQL {version.split()[0]}", int(server_us) - (before_us + after_us) // 2
