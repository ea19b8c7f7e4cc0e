"""Compare the stored data of all parts with each other: the second half of `es doctor --deep`.

Promise: every event, key, claim and row is read; memory does not grow with the store; a change that workers make
meanwhile is no finding. Refusal: nothing is changed or repaired, and a plain value of which no second copy exists, such
as the actor of an event, is not checked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Any

from adapters import versions, wiring
from adapters.clock import now_us
from adapters.log import Log, open_log
from adapters.settings import Settings
from domain.features import Registry, registry
from domain.kernel.errors import Damaged, EsError
from domain.kernel.events import Position
from domain.kernel.history import History
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.read_model import GenerationState, ReadModel
from domain.kernel.ports.vault import Vault
from domain.kernel.projection import Key, Projection, Value
from workers.projections.filling import Filler, Filling
from workers.unique_check import UniqueCheck
from workers.users.consistency import AccountCheck, Streams

_SHOWN = 20
"""How many problems of a part are listed; further ones are counted."""
_BATCH = 1000
_PAGE = 500
_BEFORE_ALL = -(1 << 63)
"""Before every subject of the vault: instances without a person have negative ones."""
_SUSPECTS = 1000
_ROUNDS = 5
"""How often a row that differs is compared again, because workers may have changed it meanwhile."""
_REBUILD = "Run `es projections rebuild {name}`."

Tell = Callable[[str], None]
"""Called now and then with the progress, for a person to read."""


@dataclass
class Problems:
    """The problems that were found, by part. The first ones are kept, the others counted."""

    shown: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    more: dict[str, int] = field(default_factory=dict)

    def add(self, part: str, problem: str, cure: str = Damaged.hint, code: str = Damaged.code) -> None:
        listed = self.shown.setdefault(part, [])
        if len(listed) < _SHOWN:
            listed.append((problem, cure, code))
        else:
            self.more[part] = self.more.get(part, 0) + 1

    def listed(self) -> Iterator[tuple[str, str, str, str]]:
        """Part, problem, cure and code of each."""
        for part, problems in self.shown.items():
            for problem, cure, code in problems:
                yield part, problem, cure, code
            if more := self.more.get(part):
                yield part, f"{more} more problems", *problems[-1][1:]


def compare(settings: Settings, problems: Problems, tell: Tell) -> str:
    """Add to the problems; a sentence that says what was read. Raises EsError if a part cannot be opened."""
    for part, url in (
        ("event store", settings.store),
        ("vault", settings.vault),
        ("read models", settings.database),
    ):
        tell(f"examining the file of the {part}")
        for damage in versions.damage(url):
            problems.add(part, damage)
    with ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="deep-check-", dir=settings.home))
        scratch = replace(settings, database=f"sqlite:{folder}/rows.db")
        check = _DeepCheck(
            store=opened.enter_context(closing(wiring.open_store(settings.store))),
            vault=opened.enter_context(closing(wiring.open_vault(settings))),
            read_model=opened.enter_context(closing(wiring.open_read_model(settings))),
            scratch=opened.enter_context(closing(wiring.open_read_model(scratch))),
            codec=wiring.open_codec(settings.features),
            known=registry(settings.features),
            problems=problems,
            tell=tell,
        )
        return check.run()


class _DeepCheck:
    def __init__(
        self,
        *,
        store: EventStore,
        vault: Vault,
        read_model: ReadModel,
        scratch: ReadModel,
        codec: Codec,
        known: Registry,
        problems: Problems,
        tell: Tell,
    ) -> None:
        """`scratch` is an empty read model on the disk: what is computed from the events, in constant memory."""
        self._store = store
        self._vault = vault
        self._read_model = read_model
        self._scratch = scratch
        self._known = known
        self._codec = codec
        self._problems = problems
        self._tell = tell
        self._log: Log = open_log("doctor", None)
        self._streams = Streams(
            scratch=scratch,
            codec=codec,
            keyring=(keyring := wiring.keyring_of(vault)),
            prefixes=tuple(aggregate.prefix for aggregate in known.aggregates),
            report=lambda problem: problems.add("event store", problem),
        )
        self._accounts = AccountCheck(
            self._streams, store=store, vault=vault, keyring=keyring, problems=problems.add
        )
        self._unique = UniqueCheck(
            known.aggregates, store=store, codec=codec, vault=vault, problems=problems.add
        )

    def run(self) -> str:
        events = self._part("event store", self._read_events)
        users = self._part("vault", self._compare_accounts)
        subjects = self._part("vault", self._compare_subjects)
        rows = self._part("read models", self._compare_rows)
        return f"{events} events, {users} users, {subjects} keys and {rows} rows were compared"

    def _part(self, part: str, step: Callable[[], int]) -> int:
        """Run a step. The others still run if this one cannot go on."""
        try:
            return step()
        except EsError as error:
            self._problems.add(part, str(error), error.hint, error.code)
            return 0

    # --- events --------------------------------------------------------------------------------

    def _read_events(self) -> int:
        head, after, count = self._store.head(), 0, 0
        while after < head:
            events = list(self._store.read_all(after, _BATCH))
            if not events:
                break
            self._streams.read(events)
            after, count = events[-1].position, count + len(events)
            self._tell(f"reading events, position {after} of {head}")
        return count

    # --- keys and claims -----------------------------------------------------------------------

    def _compare_accounts(self) -> int:
        count = 0
        for page in self._streams.pages(_PAGE):
            count += self._accounts.check(page)
            self._unique.check_streams(page.keys())
            self._tell(f"comparing users with keys and claims, {count} done")
        return count

    def _compare_subjects(self) -> int:
        count, after = 0, _BEFORE_ALL
        while page := self._vault.subjects(after=after, limit=_PAGE):
            people = [subject for subject in page if subject > 0]
            self._accounts.check_subjects(people)
            self._unique.check_subjects(page, self._streams.of)
            after, count = page[-1], count + len(people)
            self._tell(f"comparing keys and claims with streams, {count} done")
        return count

    # --- read models ---------------------------------------------------------------------------

    def _compare_rows(self) -> int:
        return sum(map(self._compare_projection, self._known.projections))

    def _compare_projection(self, projection: Projection) -> int:
        """Compute the rows up to the checkpoint of the current generation, and compare them; the number of rows."""
        live = self._checkpoint(projection)
        if live is None:
            return 0
        parts = Filling(
            projection,
            store=self._store,
            codec=self._codec,
            read_model=self._scratch,
            now_us=now_us,
            log=self._log,
        )
        filler = Filler(parts, self._scratch.prepare(projection, now_us=now_us()))
        self._fill(filler, projection, live)
        suspects: list[Key] = []
        count = 0
        for keys, differing in self._compared(projection):
            suspects += differing[: _SUSPECTS - len(suspects)]
            count += keys
            self._tell(f"comparing rows of {projection.name}, {count} done")
        for key in self._confirmed(projection, filler, suspects):
            problem = f"row {key} of {projection.name} is not what its events say"
            self._problems.add("read models", problem, _REBUILD.format(name=projection.name))
        return count

    def _checkpoint(self, projection: Projection) -> Position | None:
        """How far the current generation has come; None if there is none."""
        generations = self._read_model.generations(projection)
        current = [each.checkpoint for each in generations if each.state is GenerationState.CURRENT]
        return min(current[0], self._store.head()) if current else None

    def _fill(self, filler: Filler, projection: Projection, target: Position) -> None:
        while (after := filler.generation.checkpoint) < target:
            read = self._store.read_all(after, _BATCH, prefixes=projection.prefixes)
            events = [event for event in read if event.position <= target]
            reached = target if len(events) < _BATCH else events[-1].position
            filler.fill(events, History(reached))
            self._tell(f"computing rows of {projection.name}, position {reached} of {target}")

    def _compared(self, projection: Projection) -> Iterator[tuple[int, list[Key]]]:
        """Page by page: how many keys there are, and those whose rows differ."""
        after: Any = None
        while True:
            theirs, ours = (
                _by_key(projection, part.rows(projection, after=after, limit=_PAGE))
                for part in (self._read_model, self._scratch)
            )
            # Beyond the end of a full page it may have keys that the other one has as well.
            after = min((max(page) for page in (theirs, ours) if len(page) == _PAGE), default=None)
            keys = sorted(key for key in theirs.keys() | ours.keys() if after is None or key <= after)
            yield len(keys), [key for key in keys if theirs.get(key) != ours.get(key)]
            if after is None:
                return

    def _confirmed(self, projection: Projection, filler: Filler, suspects: Sequence[Key]) -> Sequence[Key]:
        """The rows that still differ when both sides have come equally far, or each time."""
        for _ in range(_ROUNDS):
            before = self._checkpoint(projection)
            if not suspects or before is None:
                break
            self._fill(filler, projection, before)
            theirs, ours = (
                _by_key(projection, part.rows(projection, keys=suspects))
                for part in (self._read_model, self._scratch)
            )
            suspects = [key for key in suspects if theirs.get(key) != ours.get(key)]
            if self._checkpoint(projection) == before:
                break
        return suspects


def _by_key(projection: Projection, rows: Sequence[dict[str, Value]]) -> dict[Any, dict[str, Value]]:
    return {row[projection.key]: row for row in rows}
