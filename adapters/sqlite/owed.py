"""What processes still owe to their vault, in the SQLite file of the vault: owed erasures and checkpoints.

Promise: an erasure is listed in the transaction that moves the checkpoint past its event, and leaves the list only
once it is settled. Refusal: no checkpoint moves backwards unless another history was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from adapters.sqlite.buckets import Buckets
from adapters.sqlite.database import Connection, Database
from domain.kernel.events import BEGINNING, Position
from domain.kernel.history import History
from domain.kernel.ports.vault import Decided, Divergence, Owed, OwedState, OwedTag, Quarantined
from domain.kernel.vault_errors import vault_behind

_OWED = """
    SELECT subject, event_id, position, state, listed_at_us, attempts, last_error, letters FROM owed_erasures """


class OwedErasures:
    """The part of the vault that `domain/kernel/ports/vault.py` lists under owed erasures and checkpoints."""

    _database: Database

    def _buckets(self, connection: Connection) -> Buckets:
        raise NotImplementedError

    # --- owed erasures -------------------------------------------------------------------------

    def owe(
        self,
        erasures: Sequence[Decided],
        *,
        now_us: int,
        process: str | None = None,
        reached: History | None = None,
        since: Position = BEGINNING,
        quarantined: Sequence[Quarantined] = (),
    ) -> None:
        with self._database.writing() as connection:
            connection.executemany(
                """INSERT OR IGNORE INTO owed_erasures(subject, state, event_id, position, listed_at_us)
                   VALUES(?, ?, ?, ?, ?)""",
                [
                    (d.subject, OwedState.DECIDED, d.event_id and d.event_id.bytes, d.position, now_us)
                    for d in erasures
                ],
            )
            connection.executemany(
                "INSERT OR IGNORE INTO quarantine VALUES(?, ?, ?, ?)",
                [(q.position, q.stream, q.type, q.error) for q in quarantined],
            )
            if process is not None and reached is not None:
                _save_checkpoint(connection, process, reached, since)

    def owed(self, *, after: int = 0, limit: int, state: OwedState | None = None) -> list[Owed]:
        condition = "" if state is None else "AND state = :state"
        return self._owed(
            f"WHERE subject > :after {condition} ORDER BY subject LIMIT :limit",
            {"after": after, "limit": limit, "state": state},
        )

    def owed_of(self, subject: int) -> Owed | None:
        return next(iter(self._owed("WHERE subject = :subject", {"subject": subject})), None)

    def _owed(self, condition: str, arguments: Mapping[str, Any]) -> list[Owed]:
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(_OWED + condition, arguments).fetchall()
        return [
            Owed(Decided(subject, uuid_or_none(event_id), position), OwedState(state), *others)
            for subject, event_id, position, state, *others in rows
        ]

    def owed_count(self) -> Mapping[OwedState, int]:
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(
                "SELECT state, count(*) FROM owed_erasures GROUP BY state"
            ).fetchall()
        return {OwedState(state): count for state, count in rows}

    def owed_tags(self, subjects: Sequence[int]) -> Mapping[int, Sequence[OwedTag]]:
        found: dict[int, list[OwedTag]] = {}
        with self._database.snapshot() as connection:
            buckets = self._buckets(connection)
            for subject in subjects:
                rows: list[Any] = connection.execute(
                    "SELECT tag, words, block FROM owed_tags WHERE subject = ?", (subject,)
                ).fetchall()
                if rows:
                    found[subject] = [OwedTag(buckets.of(b).open_tags(tag), words) for tag, words, b in rows]
        return found

    def erasure_failed(self, subjects: Sequence[int], error: str) -> None:
        self._each(
            "UPDATE owed_erasures SET attempts = attempts + 1, last_error = ? WHERE subject = ?",
            [(error, subject) for subject in subjects],
        )

    def forget_tags(self, letters: Mapping[int, int]) -> None:
        with self._database.writing() as connection:
            connection.executemany("DELETE FROM owed_tags WHERE subject = ?", [(s,) for s in letters])
            connection.executemany(
                "UPDATE owed_erasures SET letters = letters + ? WHERE subject = ?",
                [(count, subject) for subject, count in letters.items()],
            )

    def settle_erasures(self, subjects: Sequence[int]) -> None:
        self._each(
            "DELETE FROM owed_erasures WHERE subject = ? AND state = ?",
            [(subject, OwedState.KEY_DESTROYED) for subject in subjects],
        )

    def quarantined(self, *, limit: int = 100) -> list[Quarantined]:
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(
                "SELECT position, stream, type, error FROM quarantine ORDER BY position LIMIT ?", (limit,)
            ).fetchall()
        return [Quarantined(*row) for row in rows]

    # --- checkpoints ---------------------------------------------------------------------------

    def checkpoint(self, process: str) -> History:
        with self._database.reading() as connection:
            row: Any = connection.execute(
                "SELECT position, marks FROM checkpoints WHERE process = ?", (process,)
            ).fetchone()
        return History() if row is None else History.from_bytes(*row)

    def save_checkpoint(self, process: str, reached: History, *, since: Position = BEGINNING) -> None:
        with self._database.writing() as connection:
            _save_checkpoint(connection, process, reached, since)

    def rewind_checkpoint(self, process: str, reached: History, *, now_us: int) -> None:
        with self._database.writing() as connection:
            seen: Any = connection.execute(
                "SELECT position FROM checkpoints WHERE process = ?", (process,)
            ).get
            if seen is None or seen <= reached.position:
                return
            connection.execute(
                "UPDATE checkpoints SET position = ?, marks = ? WHERE process = ?",
                (reached.position, reached.to_bytes(), process),
            )
            connection.execute(
                """INSERT INTO divergences VALUES(?, ?, ?, ?) ON CONFLICT(process) DO UPDATE
                   SET seen = excluded.seen, back_to = excluded.back_to, at_us = excluded.at_us""",
                (process, seen, reached.position, now_us),
            )

    def divergences(self) -> list[Divergence]:
        with self._database.reading() as connection:
            rows: list[Any] = connection.execute(
                "SELECT process, seen, back_to, at_us FROM divergences ORDER BY at_us, process"
            ).fetchall()
        return [Divergence(*row) for row in rows]

    def forget_findings(self) -> None:
        with self._database.writing() as connection:
            for table in ("divergences", "quarantine"):
                connection.execute(f"DELETE FROM {table}")

    def _each(self, statement: str, arguments: Iterable[tuple[Any, ...]]) -> None:
        with self._database.writing() as connection:
            connection.executemany(statement, arguments)


def uuid_or_none(raw: bytes | None) -> UUID | None:
    return None if raw is None else UUID(bytes=raw)


def _save_checkpoint(connection: Connection, process: str, reached: History, since: Position) -> None:
    before: Any = connection.execute("SELECT position FROM checkpoints WHERE process = ?", (process,)).get
    if (before or BEGINNING) < since:
        raise vault_behind(process, before or BEGINNING, since)
    connection.execute(
        """INSERT INTO checkpoints VALUES(?, ?, ?) ON CONFLICT(process) DO UPDATE
           SET position = excluded.position, marks = excluded.marks WHERE excluded.position >= position""",
        (process, reached.position, reached.to_bytes()),
    )
