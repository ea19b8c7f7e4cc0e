"""What processes still owe to their vault, in the schema of the vault: owed erasures and checkpoints.

Promise: an erasure is listed in the transaction that moves the checkpoint past its event, and leaves the list only
once it is settled. Refusal: no checkpoint moves backwards unless another history was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.postgres import statements
from adapters.postgres.connection import Connection
from adapters.postgres.database import Database, one
from domain.kernel.history import History
from domain.kernel.ports.vault import Decided, Divergence, Owed, OwedState, OwedTag, Quarantined


class OwedErasures:
    """The part of the vault that `domain/kernel/ports/vault.py` lists under owed erasures and checkpoints."""

    _database: Database

    # --- owed erasures -------------------------------------------------------------------------

    def owe(
        self,
        erasures: Sequence[Decided],
        *,
        now_us: int,
        process: str | None = None,
        reached: History | None = None,
        quarantined: Sequence[Quarantined] = (),
    ) -> None:
        def attempt(connection: Connection) -> None:
            sql = self._database.sql
            if erasures:
                columns = ([d.subject for d in erasures], [d.event_id for d in erasures])
                positions = [d.position for d in erasures]
                connection.execute(sql(statements.OWE), (now_us, *columns, positions))
            if quarantined:
                rows = [(q.position, q.stream, q.type, q.error) for q in quarantined]
                connection.execute(sql(statements.QUARANTINE), tuple(map(list, zip(*rows, strict=True))))
            if process is not None and reached is not None:
                saved = (process, reached.position, reached.to_bytes())
                connection.execute(sql(statements.SAVE_CHECKPOINT), saved)

        self._database.write(attempt)

    def owed(self, *, after: int = 0, limit: int, state: OwedState | None = None) -> list[Owed]:
        condition = "WHERE subject > %s AND (%s::text IS NULL OR state = %s) ORDER BY subject LIMIT %s"
        return self._owed(condition, (after, state, state, limit))

    def owed_of(self, subject: int) -> Owed | None:
        return next(iter(self._owed("WHERE subject = %s", (subject,))), None)

    def _owed(self, condition: str, arguments: Sequence[object]) -> list[Owed]:
        return [
            Owed(Decided(subject, event_id, position), OwedState(state), *others)
            for subject, event_id, position, state, *others in self._all(
                statements.FIND_OWED + condition, arguments
            )
        ]

    def owed_count(self) -> Mapping[OwedState, int]:
        counts = self._all("SELECT state, count(*) FROM {schema}.owed_erasures GROUP BY state", ())
        return {OwedState(state): count for state, count in counts}

    def owed_tags(self, subjects: Sequence[int]) -> Mapping[int, Sequence[OwedTag]]:
        found: dict[int, list[OwedTag]] = {}
        wanted = "SELECT subject, tag, words FROM {schema}.owed_tags WHERE subject = ANY(%b::bigint[]) ORDER BY tag"
        for subject, tag, words in self._all(wanted, (list(subjects),)):
            found.setdefault(subject, []).append(OwedTag(tag, words))
        return found

    def erasure_failed(self, subjects: Sequence[int], error: str) -> None:
        self._write(statements.FAILED, (error, list(subjects)))

    def forget_tags(self, letters: Mapping[int, int]) -> None:
        def attempt(connection: Connection) -> None:
            connection.execute(self._database.sql(statements.FORGET_TAGS), (list(letters),))
            counted = (list(letters), list(letters.values()))
            connection.execute(self._database.sql(statements.COUNT_LETTERS), counted)

        self._database.write(attempt)

    def settle_erasures(self, subjects: Sequence[int]) -> None:
        self._write(statements.SETTLE, (list(subjects),))

    def quarantined(self, *, limit: int = 100) -> list[Quarantined]:
        columns = "SELECT position, stream, type, error FROM {schema}.quarantine"
        return [Quarantined(*row) for row in self._all(f"{columns} ORDER BY position LIMIT %s", (limit,))]

    # --- checkpoints ---------------------------------------------------------------------------

    def checkpoint(self, process: str) -> History:
        found = self._all("SELECT position, marks FROM {schema}.checkpoints WHERE process = %s", (process,))
        return History.from_bytes(*found[0]) if found else History()

    def save_checkpoint(self, process: str, reached: History) -> None:
        self._write(statements.SAVE_CHECKPOINT, (process, reached.position, reached.to_bytes()))

    def rewind_checkpoint(self, process: str, reached: History, *, now_us: int) -> None:
        to = reached.position
        self._write(statements.REWIND_CHECKPOINT, (process, to, to, reached.to_bytes(), now_us))

    def divergences(self) -> list[Divergence]:
        columns = "SELECT process, seen, back_to, at_us FROM {schema}.divergences"
        return [Divergence(*row) for row in self._all(f"{columns} ORDER BY at_us, process", ())]

    def forget_findings(self) -> None:
        def forget(connection: Connection) -> None:
            for table in ("divergences", "quarantine"):
                connection.execute(self._database.sql("DELETE FROM {schema}.{table}", table=table))

        self._database.write(forget)

    # --- one statement -------------------------------------------------------------------------

    def _one(self, template: str, *arguments: object) -> Any:
        statement = self._database.sql(template)
        return self._database.read(lambda connection: one(connection, statement, *arguments))

    def _all(self, template: str, arguments: Sequence[object]) -> list[tuple[Any, ...]]:
        statement = self._database.sql(template)
        return self._database.read(lambda connection: connection.execute(statement, arguments).fetchall())

    def _write(self, template: str, arguments: Sequence[object]) -> None:
        statement = self._database.sql(template)
        self._database.write(lambda connection: connection.execute(statement, arguments))
