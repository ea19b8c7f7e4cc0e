"""What processes still owe to their vault, in the schema of the vault: owed erasures and checkpoints.

Promise: an erasure is listed in the transaction that moves the checkpoint past its event, and leaves the list only
once it is settled. Refusal: no checkpoint moves backwards unless another history was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.postgres import statements
from adapters.postgres.buckets import Buckets
from adapters.postgres.connection import Connection
from adapters.postgres.database import Database, one
from domain.kernel.events import BEGINNING, Position
from domain.kernel.history import History
from domain.kernel.ports.vault import Decided, Divergence, Owed, OwedState, OwedTag, Quarantined
from domain.kernel.vault_errors import vault_behind


class OwedErasures:
    """The part of the vault that `domain/kernel/ports/vault.py` lists under owed erasures and checkpoints."""

    _database: Database
    _buckets: Buckets

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
                self._save(connection, process, reached, since)

        self._database.write(attempt)

    def _save(self, connection: Connection, process: str, reached: History, since: Position) -> None:
        values = {
            "process": process,
            "position": reached.position,
            "marks": reached.to_bytes(),
            "since": since,
        }
        ((before,),) = connection.execute(self._database.sql(statements.SAVE_CHECKPOINT), values)
        if before < since:
            raise vault_behind(process, before, since)

    def owed(self, *, after: int = 0, limit: int, state: OwedState | None = None) -> list[Owed]:
        if state is None:
            return self._owed(statements.FIND_OWED, (after, limit))
        values = {"state": state, "after": after, "limit": limit}
        return self._owed(statements.FIND_OWED_IN_STATE, values)

    def owed_of(self, subject: int) -> Owed | None:
        return next(iter(self._owed(statements.FIND_OWED_OF, (subject,))), None)

    def _owed(self, statement: str, arguments: Sequence[object] | Mapping[str, object]) -> list[Owed]:
        return [
            Owed(Decided(subject, event_id, position), OwedState(state), *others)
            for subject, event_id, position, state, *others in self._all(statement, arguments)
        ]

    def owed_count(self) -> Mapping[OwedState, int]:
        return {OwedState(state): count for state, count in self._all(statements.COUNT_OWED, ())}

    def owed_tags(self, subjects: Sequence[int]) -> Mapping[int, Sequence[OwedTag]]:
        def find(connection: Connection) -> dict[int, list[OwedTag]]:
            statement = self._database.sql(statements.FIND_OWED_TAGS)
            rows = connection.execute(statement, (list(set(subjects)),)).fetchall()
            blocks = self._buckets.blocks(connection, {block: version for *_, block, version in rows})
            found: dict[int, list[OwedTag]] = {}
            for subject, sealed, words, block, _ in rows:
                tag = blocks[block].sound_key.open_tags(sealed)
                found.setdefault(subject, []).append(OwedTag(tag, words))
            return found

        return self._database.read(find)

    def erasure_failed(self, subjects: Sequence[int], error: str) -> None:
        self._write(statements.FAILED, (error, list(subjects)))

    def forget_tags(self, letters: Mapping[int, int]) -> None:
        def attempt(connection: Connection) -> None:
            self._buckets.exclude_rotations(connection)
            connection.execute(self._database.sql(statements.FORGET_TAGS), (list(letters),))
            counted = (list(letters), list(letters.values()))
            connection.execute(self._database.sql(statements.COUNT_LETTERS), counted)

        self._database.write(attempt)

    def settle_erasures(self, subjects: Sequence[int]) -> None:
        self._write(statements.SETTLE, (list(subjects),))

    def quarantined(self, *, limit: int = 100) -> list[Quarantined]:
        return [Quarantined(*row) for row in self._all(statements.FIND_QUARANTINED, (limit,))]

    # --- checkpoints ---------------------------------------------------------------------------

    def checkpoint(self, process: str) -> History:
        found = self._all(statements.FIND_CHECKPOINT, (process,))
        return History.from_bytes(*found[0]) if found else History()

    def save_checkpoint(self, process: str, reached: History, *, since: Position = BEGINNING) -> None:
        self._database.write(lambda connection: self._save(connection, process, reached, since))

    def rewind_checkpoint(self, process: str, reached: History, *, now_us: int) -> None:
        to = reached.position
        self._write(statements.REWIND_CHECKPOINT, (process, to, to, reached.to_bytes(), now_us))

    def divergences(self) -> list[Divergence]:
        return [Divergence(*row) for row in self._all(statements.FIND_DIVERGENCES, ())]

    def forget_findings(self) -> None:
        def forget(connection: Connection) -> None:
            for table in ("divergences", "quarantine"):
                connection.execute(self._database.sql("DELETE FROM {schema}.{table}", table=table))

        self._database.write(forget)

    # --- one statement -------------------------------------------------------------------------

    def _one(self, template: str, *arguments: object) -> Any:
        statement = self._database.sql(template)
        return self._database.read(lambda connection: one(connection, statement, *arguments))

    def _all(
        self, template: str, arguments: Sequence[object] | Mapping[str, object]
    ) -> list[tuple[Any, ...]]:
        statement = self._database.sql(template)
        return self._database.read(lambda connection: connection.execute(statement, arguments).fetchall())

    def _write(self, template: str, arguments: Sequence[object]) -> None:
        statement = self._database.sql(template)
        self._database.write(lambda connection: connection.execute(statement, arguments))
