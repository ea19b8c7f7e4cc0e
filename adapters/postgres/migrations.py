"""Bring a schema of PostgreSQL to its current version, in one transaction.

Promise: a crash leaves the schema as it was, and of several programs that begin at once one migrates. Refusal: the schema of a
newer program is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from adapters.postgres.connection import Connection


class Sql(Protocol):
    """`Database.sql`."""

    def __call__(self, template: str, **names: Any) -> str: ...


Migration = Path | Callable[[Connection, Sql], None]
"""A file with statements, or a function for what the server cannot do alone."""


def migrate(
    connection: Connection,
    migrations: Sequence[Migration],
    *,
    schema: str,
    sql: Sql,
    settings: tuple[str, Sequence[str]],
) -> int:
    """Apply the migrations that are missing. Returns the version that the schema has then: a greater one is that of a newer
    program. `settings` is a statement that begins the transaction, with its values.
    """
    version = _version(connection, schema, sql)
    if version == len(migrations):
        return version
    with connection.transaction():
        connection.execute(*settings)
        # Several workers may start at once: one migrates, and the others wait and find it done.
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('es schema ' || %s, 0))", (schema,))
        version = _version(connection, schema, sql)
        if version >= len(migrations):
            return version
        if version == 0:
            connection.execute(sql("CREATE SCHEMA IF NOT EXISTS {schema}"))
            connection.execute(sql("CREATE TABLE {schema}.schema_version(version integer NOT NULL)"))
            connection.execute(sql("INSERT INTO {schema}.schema_version VALUES(0)"))
        for migration in migrations[version:]:
            if callable(migration):
                migration(connection, sql)
            else:
                connection.execute(sql(migration.read_text("utf-8")))
        connection.execute(sql("UPDATE {schema}.schema_version SET version = %s"), (len(migrations),))
    return len(migrations)


def _version(connection: Connection, schema: str, sql: Sql) -> int:
    """The number of migrations that were applied; 0 if the schema does not exist."""
    # Do not use to_regclass(): its cache may be older than the lock and miss the table of another worker.
    exists = "SELECT FROM pg_tables WHERE schemaname = %s AND tablename = 'schema_version'"
    if connection.execute(exists, (schema,)).fetchone() is None:
        return 0
    row = connection.execute(sql("SELECT version FROM {schema}.schema_version")).fetchone()
    return int(row[0]) if row else 0
