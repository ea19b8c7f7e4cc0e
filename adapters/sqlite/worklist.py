"""The worklist of process managers, in the SQLite file of the read models.

Promise: what is listed is stored in the transaction that moves the checkpoint, durably. Each transaction is short: the
projections write to the same file. Refusal: it knows no events and no rules of a process.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.sqlite.database import Connection, Database, migration_files
from domain.kernel.events import BEGINNING, Position
from domain.kernel.history import History
from domain.kernel.ports.worklist import Backlog, Look, Opening, OpenInstance, openings_by_instance
from domain.kernel.worklist_errors import checkpoint_moved

_REVISION_BITS = 62
_INSTANCE = """
    SELECT process, instance, revision, opened_at_us, due_us, attempts, waits_for, error,
        (SELECT count(*) FROM held_events h WHERE h.process = o.process AND h.instance = o.instance AND error <> '')
    FROM open_instances o """
_OPEN = """
    INSERT INTO open_instances VALUES(:process, :instance, :revision, :now_us, :due_us, 0, '', :error)
    ON CONFLICT(process, instance) DO UPDATE SET
        revision = excluded.revision,
        due_us = CASE WHEN error = '' THEN excluded.due_us ELSE due_us END,
        error = CASE WHEN error = '' THEN excluded.error ELSE error END"""
_HELD = "EXISTS(SELECT 1 FROM held_events WHERE process = :process AND instance = :instance)"
_END = f"""
    DELETE FROM open_instances
    WHERE process = :process AND instance = :instance AND revision = :seen AND NOT {_HELD}"""
_LOOKED = f"""
    UPDATE open_instances SET
        revision = :revision,
        due_us = CASE
            WHEN revision <> :seen THEN iif(error = '', 0, due_us)
            WHEN :error <> '' THEN NULL
            WHEN {_HELD} THEN 0
            ELSE :due_us END,
        attempts = iif(revision = :seen, :attempts, attempts),
        waits_for = iif(revision = :seen, :waits_for, waits_for),
        error = CASE
            WHEN revision <> :seen THEN error
            WHEN :error <> '' THEN :error
            WHEN {_HELD} THEN error
            ELSE '' END
    WHERE process = :process AND instance = :instance"""
_COUNT = """
    SELECT (SELECT count(*) FROM (SELECT 1 FROM open_instances WHERE process = :process LIMIT :limit)),
        (SELECT count(*) FROM (SELECT 1 FROM open_instances WHERE process = :process AND error <> '' LIMIT :limit)),
        (SELECT min(due_us) FROM open_instances WHERE process = :process AND due_us IS NOT NULL)"""


class SqliteWorklist:
    def __init__(self, path: Path) -> None:
        steps = migration_files("read_model")
        self._database = Database(
            path, part="read models", migrations=steps, derived=True, synchronous="full"
        )

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
        rows = [
            {
                "process": process,
                "instance": instance,
                "revision": _new_revision(),
                "now_us": now_us,
                "due_us": None if error else now_us,
                "error": error,
            }
            for instance, error in openings_by_instance(openings).items()
        ]
        held = [(process, opening.instance, opening.position) for opening in openings if opening.held]
        with self._database.writing() as connection:
            before = _position(connection, process)
            if before != since:
                raise checkpoint_moved(process, before, since)
            connection.executemany(_OPEN, rows)
            connection.executemany("INSERT OR IGNORE INTO held_events VALUES(?, ?, ?)", held)
            _save(connection, process, reached)

    def looked(self, process: str, looks: Sequence[Look]) -> None:
        rows = [
            {
                "process": process,
                "instance": look.instance,
                "seen": look.revision,
                "revision": _new_revision(),
                "due_us": look.due_us,
                "error": look.error,
                "attempts": look.attempts,
                "waits_for": look.waits_for,
            }
            for look in looks
        ]
        released = [(process, look.instance, at) for look in looks for at in look.released]
        with self._database.writing() as connection:
            connection.executemany(
                "DELETE FROM held_events WHERE process = ? AND instance = ? AND position = ?", released
            )
            ended = [row for row, look in zip(rows, looks, strict=True) if look.ended]
            connection.executemany(_END, ended)
            connection.executemany(_LOOKED, rows)

    # --- what is listed ------------------------------------------------------------------------

    def quarantined(self, process: str, instances: Sequence[int]) -> Mapping[int, str]:
        find = "SELECT error FROM open_instances WHERE process = ? AND instance = ? AND error <> ''"
        with self._database.reading() as connection:
            found = {each: connection.execute(find, (process, each)).get for each in instances}
        return {instance: error for instance, error in found.items() if error}

    def due(self, process: str, *, now_us: int, limit: int) -> list[OpenInstance]:
        return self._instances(
            "WHERE process = :process AND due_us <= :now_us ORDER BY due_us LIMIT :limit",
            {"process": process, "now_us": now_us, "limit": limit},
        )

    def next_due_us(self, process: str) -> int | None:
        with self._database.reading() as connection:
            found: Any = connection.execute(
                "SELECT min(due_us) FROM open_instances WHERE process = ? AND due_us IS NOT NULL", (process,)
            ).get
        return None if found is None else int(found)

    def instances(
        self, *, after: tuple[str, int] | None = None, quarantined: bool = False, limit: int
    ) -> list[OpenInstance]:
        process, instance = after or ("", -1)
        only = "AND error <> ''" if quarantined else ""
        return self._instances(
            f"WHERE (process, instance) > (:process, :instance) {only} ORDER BY process, instance LIMIT :limit",
            {"process": process, "instance": instance, "limit": limit},
        )

    def instance(self, process: str, instance: int) -> OpenInstance | None:
        found = self._instances(
            "WHERE process = :process AND instance = :instance", {"process": process, "instance": instance}
        )
        return next(iter(found), None)

    def _instances(self, condition: str, arguments: Mapping[str, Any]) -> list[OpenInstance]:
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(_INSTANCE + condition, arguments).fetchall()
        return [OpenInstance(*row) for row in rows]

    def held(self, process: str, instance: int, *, limit: int) -> list[Position]:
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(
                "SELECT position FROM held_events WHERE process = ? AND instance = ? ORDER BY position LIMIT ?",
                (process, instance, limit),
            ).fetchall()
        return [position for (position,) in rows]

    def retry(self, process: str, instance: int, *, now_us: int) -> bool:
        with self._database.writing() as connection:
            found: Any = connection.execute(
                """UPDATE open_instances SET due_us = ?, revision = ? WHERE process = ? AND instance = ?
                   RETURNING instance""",
                (now_us, _new_revision(), process, instance),
            ).fetchall()
        return bool(found)

    def backlog(self, process: str, *, limit: int) -> Backlog:
        with self._database.reading() as connection:
            row: Any = connection.execute(_COUNT, {"process": process, "limit": limit}).fetchone()
        return Backlog(*row)

    # --- the lease -----------------------------------------------------------------------------

    def take_lease(self, process: str, owner: str, *, now_us: int, lease_us: int) -> bool:
        with self._database.writing() as connection:
            taken: Any = connection.execute(
                """INSERT INTO process_leases VALUES(:process, :owner, :until_us) ON CONFLICT(process) DO UPDATE
                   SET owner = excluded.owner, until_us = excluded.until_us
                   WHERE owner = excluded.owner OR until_us <= :now_us RETURNING owner""",
                {"process": process, "owner": owner, "until_us": now_us + lease_us, "now_us": now_us},
            ).fetchall()
        return bool(taken)

    def release_lease(self, process: str, owner: str) -> None:
        with self._database.writing() as connection:
            connection.execute("DELETE FROM process_leases WHERE process = ? AND owner = ?", (process, owner))

    # --- checkpoints ---------------------------------------------------------------------------

    def checkpoint(self, process: str) -> History:
        with self._database.reading() as connection:
            row: Any = connection.execute(
                "SELECT position, marks FROM process_checkpoints WHERE process = ?", (process,)
            ).fetchone()
        return History() if row is None else History.from_bytes(*row)

    def save_checkpoint(self, process: str, reached: History, *, since: Position = BEGINNING) -> None:
        with self._database.writing() as connection:
            before = _position(connection, process)
            if before < since:
                raise checkpoint_moved(process, before, since)
            _save(connection, process, reached)

    def rewind_checkpoint(self, process: str, reached: History, *, now_us: int) -> None:
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE process_checkpoints SET position = ?, marks = ? WHERE process = ? AND position > ?",
                (reached.position, reached.to_bytes(), process, reached.position),
            )

    # --- identity ------------------------------------------------------------------------------

    def system_id(self) -> UUID | None:
        return self._database.system_id()

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None = None) -> UUID:
        return self._database.claim_system(system_id, instead_of=instead_of)

    def close(self) -> None:
        self._database.close()


def _new_revision() -> int:
    """A number that the row never had: also not before it was removed, or in another copy of the list."""
    return secrets.randbits(_REVISION_BITS)


def _position(connection: Connection, process: str) -> Position:
    found: Any = connection.execute(
        "SELECT position FROM process_checkpoints WHERE process = ?", (process,)
    ).get
    return BEGINNING if found is None else int(found)


def _save(connection: Connection, process: str, reached: History) -> None:
    connection.execute(
        """INSERT INTO process_checkpoints VALUES(?, ?, ?) ON CONFLICT(process) DO UPDATE
           SET position = excluded.position, marks = excluded.marks WHERE excluded.position >= position""",
        (process, reached.position, reached.to_bytes()),
    )
