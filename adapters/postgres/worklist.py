"""The worklist of process managers, in the PostgreSQL schema of the read models.

Promise: what is listed is stored in the transaction that moves the checkpoint, durably. Refusal: it knows no events and no
rules of a process.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from adapters.postgres.connection import Connection
from adapters.postgres.database import Database, migration_files
from adapters.postgres.text import decoded, encoded_text
from domain.kernel.events import BEGINNING, Position
from domain.kernel.history import History
from domain.kernel.ports.worklist import Backlog, Look, Opening, OpenInstance, openings_by_instance
from domain.kernel.worklist_errors import checkpoint_moved

_REVISION_BITS = 62
_INSTANCE = """
    SELECT process, instance, revision, opened_at_us, due_us, attempts, waits_for, error,
        (SELECT count(*) FROM {schema}.held_events h
         WHERE h.process = o.process AND h.instance = o.instance AND o.error <> '')
    FROM {schema}.open_instances o """
_OPEN = """
    INSERT INTO {schema}.open_instances AS o
    SELECT %s, instance, revision, %s, due_us, 0, '', error
    FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[], %b::text[]) AS new(instance, revision, due_us, error)
    ORDER BY instance
    ON CONFLICT (process, instance) DO UPDATE SET
        revision = excluded.revision,
        due_us = CASE WHEN o.error = '' THEN excluded.due_us ELSE o.due_us END,
        error = CASE WHEN o.error = '' THEN excluded.error ELSE o.error END"""
_HOLD = """
    INSERT INTO {schema}.held_events SELECT %s, instance, position
    FROM unnest(%b::bigint[], %b::bigint[]) AS new(instance, position) ON CONFLICT DO NOTHING"""
_RELEASE = """
    DELETE FROM {schema}.held_events h USING unnest(%b::bigint[], %b::bigint[]) AS given(instance, position)
    WHERE h.process = %s AND h.instance = given.instance AND h.position = given.position"""
_HELD = "EXISTS(SELECT 1 FROM {schema}.held_events h WHERE h.process = o.process AND h.instance = o.instance)"
_END = f"""
    DELETE FROM {{schema}}.open_instances o USING unnest(%b::bigint[], %b::bigint[]) AS look(instance, seen)
    WHERE o.process = %s AND o.instance = look.instance AND o.revision = look.seen AND NOT {_HELD}"""
_LOOKED = f"""
    UPDATE {{schema}}.open_instances o SET
        revision = look.revision,
        due_us = CASE
            WHEN o.revision <> look.seen THEN CASE WHEN o.error = '' THEN 0 ELSE o.due_us END
            WHEN look.error <> '' THEN NULL
            WHEN {_HELD} THEN 0
            ELSE look.due_us END,
        attempts = CASE WHEN o.revision = look.seen THEN look.attempts ELSE o.attempts END,
        waits_for = CASE WHEN o.revision = look.seen THEN look.waits_for ELSE o.waits_for END,
        error = CASE
            WHEN o.revision <> look.seen THEN o.error
            WHEN look.error <> '' THEN look.error
            WHEN {_HELD} THEN o.error
            ELSE '' END
    FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::text[], %b::integer[], %b::text[])
        AS look(instance, seen, revision, due_us, error, attempts, waits_for)
    WHERE o.process = %s AND o.instance = look.instance"""
_MOVE = """
    WITH found AS (SELECT position FROM {schema}.process_checkpoints WHERE process = %(process)s FOR UPDATE),
    before AS (SELECT COALESCE((SELECT position FROM found), 0) AS position),
    moved AS (INSERT INTO {schema}.process_checkpoints AS stored
        SELECT %(process)s, %(position)s, %(marks)s FROM before
        WHERE before.position = %(since)s OR (before.position > %(since)s AND %(may_be_behind)s)
        ON CONFLICT (process) DO UPDATE
        SET position = excluded.position, marks = excluded.marks WHERE excluded.position >= stored.position)
    SELECT position FROM before"""
_QUARANTINED = """
    SELECT instance, error FROM {schema}.open_instances
    WHERE process = %s AND instance = ANY(%b::bigint[]) AND error <> ''"""
_NEXT_DUE = "SELECT min(due_us) FROM {schema}.open_instances WHERE process = %s AND due_us IS NOT NULL"
_FIND_HELD = """
    SELECT position FROM {schema}.held_events WHERE process = %s AND instance = %s ORDER BY position LIMIT %s"""
_RETRY = """
    UPDATE {schema}.open_instances SET due_us = %s, revision = %s WHERE process = %s AND instance = %s
    RETURNING instance"""
_COUNT = """
    SELECT (SELECT count(*) FROM (SELECT 1 FROM {schema}.open_instances WHERE process = %(process)s LIMIT %(limit)s) a),
        (SELECT count(*) FROM (SELECT 1 FROM {schema}.open_instances WHERE process = %(process)s AND error <> ''
            LIMIT %(limit)s) b),
        (SELECT min(due_us) FROM {schema}.open_instances WHERE process = %(process)s AND due_us IS NOT NULL)"""
_TAKE_LEASE = """
    INSERT INTO {schema}.process_leases AS held VALUES(%(process)s, %(owner)s, %(until_us)s)
    ON CONFLICT (process) DO UPDATE SET owner = excluded.owner, until_us = excluded.until_us
    WHERE held.owner = excluded.owner OR held.until_us <= %(now_us)s RETURNING owner"""
_RELEASE_LEASE = "DELETE FROM {schema}.process_leases WHERE process = %s AND owner = %s"
_CHECKPOINT = "SELECT position, marks FROM {schema}.process_checkpoints WHERE process = %s"
_REWIND = """
    UPDATE {schema}.process_checkpoints SET position = %s, marks = %s WHERE process = %s AND position > %s"""


class PostgresWorklist:
    def __init__(self, url: str) -> None:
        steps = migration_files("read_model")
        self._database = Database(url, part="read models", migrations=steps)

    # --- listing -------------------------------------------------------------------------------

    def open_instances(
        self,
        process: str,
        openings: Sequence[Opening],
        *,
        reached: History,
        since: Position = BEGINNING,
        now_us: int,
    ) -> None:
        errors = openings_by_instance(openings)
        held = [opening for opening in openings if opening.held]
        columns = (
            [*errors],
            [_new_revision() for _ in errors],
            [None if error else now_us for error in errors.values()],
            [encoded_text(error) for error in errors.values()],
        )
        holding = ([each.instance for each in held], [each.position for each in held])

        def attempt(connection: Connection) -> None:
            self._move(connection, process, reached, since, may_be_behind=False)
            if errors:
                connection.execute(self._database.sql(_OPEN), (process, now_us, *columns))
            if held:
                connection.execute(self._database.sql(_HOLD), (process, *holding))

        self._database.write(attempt)

    def _move(
        self,
        connection: Connection,
        process: str,
        reached: History,
        since: Position,
        *,
        may_be_behind: bool,
    ) -> None:
        """Move the checkpoint unless that would be backwards. Raises PartUnavailable if it is elsewhere."""
        values = {
            "process": process,
            "position": reached.position,
            "marks": reached.to_bytes(),
            "since": since,
            "may_be_behind": may_be_behind,
        }
        ((before,),) = connection.execute(self._database.sql(_MOVE), values)
        if before < since or (before > since and not may_be_behind):
            raise checkpoint_moved(process, before, since)

    def looked(self, process: str, looks: Sequence[Look]) -> None:
        if not looks:
            return
        released = [(look.instance, at) for look in looks for at in look.released]
        ended = [(look.instance, look.revision) for look in looks if look.ended]
        columns = (
            [look.instance for look in looks],
            [look.revision for look in looks],
            [_new_revision() for _ in looks],
            [look.due_us for look in looks],
            [encoded_text(look.error) for look in looks],
            [look.attempts for look in looks],
            [encoded_text(look.waits_for) for look in looks],
        )

        def attempt(connection: Connection) -> None:
            for statement, pairs in ((_RELEASE, released), (_END, ended)):
                if pairs:
                    given = map(list, zip(*pairs, strict=True))
                    connection.execute(self._database.sql(statement), (*given, process))
            connection.execute(self._database.sql(_LOOKED), (*columns, process))

        self._database.write(attempt)

    # --- what is listed ------------------------------------------------------------------------

    def quarantined(self, process: str, instances: Sequence[int]) -> Mapping[int, str]:
        found = self._all(_QUARANTINED, (process, list(instances)))
        return {instance: decoded(error) for instance, error in found}

    def due(self, process: str, *, now_us: int, limit: int) -> list[OpenInstance]:
        condition = "WHERE process = %s AND due_us <= %s ORDER BY due_us LIMIT %s"
        return self._instances(_INSTANCE + condition, (process, now_us, limit))

    def next_due_us(self, process: str) -> int | None:
        ((found,),) = self._all(_NEXT_DUE, (process,))
        return None if found is None else int(found)

    def instances(
        self, *, after: tuple[str, int] | None = None, quarantined: bool = False, limit: int
    ) -> list[OpenInstance]:
        only = "AND error <> ''" if quarantined else ""
        condition = f"WHERE (process, instance) > (%s, %s) {only} ORDER BY process, instance LIMIT %s"
        return self._instances(_INSTANCE + condition, (*(after or ("", -1)), limit))

    def instance(self, process: str, instance: int) -> OpenInstance | None:
        found = self._instances(_INSTANCE + "WHERE process = %s AND instance = %s", (process, instance))
        return next(iter(found), None)

    def _instances(self, statement: str, arguments: Sequence[object]) -> list[OpenInstance]:
        return [OpenInstance(*map(decoded, row)) for row in self._all(statement, arguments)]

    def held(self, process: str, instance: int, *, limit: int) -> list[Position]:
        return [position for (position,) in self._all(_FIND_HELD, (process, instance, limit))]

    def retry(self, process: str, instance: int, *, now_us: int) -> bool:
        return bool(self._changed(_RETRY, (now_us, _new_revision(), process, instance)))

    def backlog(self, process: str, *, limit: int) -> Backlog:
        (row,) = self._all(_COUNT, {"process": process, "limit": limit})
        return Backlog(*row)

    # --- the lease -----------------------------------------------------------------------------

    def take_lease(self, process: str, owner: str, *, now_us: int, lease_us: int) -> bool:
        values = {"process": process, "owner": owner, "until_us": now_us + lease_us, "now_us": now_us}
        return bool(self._changed(_TAKE_LEASE, values))

    def release_lease(self, process: str, owner: str) -> None:
        self._write(_RELEASE_LEASE, (process, owner))

    # --- checkpoints ---------------------------------------------------------------------------

    def checkpoint(self, process: str) -> History:
        found = self._all(_CHECKPOINT, (process,))
        return History.from_bytes(*found[0]) if found else History()

    def save_checkpoint(self, process: str, reached: History, *, since: Position = BEGINNING) -> None:
        self._database.write(
            lambda connection: self._move(connection, process, reached, since, may_be_behind=True)
        )

    def rewind_checkpoint(self, process: str, reached: History, *, now_us: int) -> None:
        self._write(_REWIND, (reached.position, reached.to_bytes(), process, reached.position))

    # --- identity ------------------------------------------------------------------------------

    def system_id(self) -> UUID | None:
        return self._database.system_id()

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None = None) -> UUID:
        return self._database.claim_system(system_id, instead_of=instead_of)

    def close(self) -> None:
        self._database.close()

    # --- one statement -------------------------------------------------------------------------

    def _all(
        self, template: str, arguments: Sequence[object] | Mapping[str, object]
    ) -> list[tuple[Any, ...]]:
        statement = self._database.sql(template)
        return self._database.read(lambda connection: connection.execute(statement, arguments).fetchall())

    def _changed(
        self, template: str, arguments: Sequence[object] | Mapping[str, object]
    ) -> list[tuple[Any, ...]]:
        """The rows that a statement changed and returns."""
        statement = self._database.sql(template)
        return self._database.write(lambda connection: connection.execute(statement, arguments).fetchall())

    def _write(self, template: str, arguments: Sequence[object]) -> None:
        statement = self._database.sql(template)
        self._database.write(lambda connection: connection.execute(statement, arguments))


def _new_revision() -> int:
    """A number that the row never had: also not before it was removed, or in another copy of the list."""
    return secrets.randbits(_REVISION_BITS)
