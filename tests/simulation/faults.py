"""A test double around the store in memory that does to a worker what networks and operators do.

Every fault is one the contract of the port allows (an unreachable store, a lost answer, an append that lands
late or twice, somebody else's append in between), or one that the documentation names as an operator's
deed: an older copy restored, the events of a stream deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from adapters.memory.event_store import MemoryStore
from domain.kernel.errors import PartUnavailable, VersionConflict
from domain.kernel.events import NO_STREAM, EventData, Position, Recorded
from domain.kernel.ports.event_store import Append, Appended, AppendResult, CaughtUp

AWAY = PartUnavailable("event store", "the simulation cut the connection")


def _nothing() -> None:
    return None


@dataclass
class Plan:
    """What happens to one append: each may be set, for one call."""

    refused: bool = False  # it never arrives
    answer_lost: bool = False  # it is stored, and nobody hears of it
    late: bool = False  # nobody hears of it, and it is stored some time later
    twice: bool = False  # it arrives twice
    before: Callable[[], None] = _nothing  # others act before it arrives
    after: Callable[[], None] = _nothing  # others act before its answer arrives


def no_fault(batch: Sequence[Append]) -> Plan:
    return Plan()


class FaultyStore:
    """An `EventStore`. `next_plan` is asked for each append; without one nothing goes wrong."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._inner = MemoryStore(now_us=self._recorded_now)
        self._replayed_at_us: int | None = None
        self._hidden: dict[str, int] = {}
        self._late: list[Sequence[Append]] = []
        self.next_plan: Callable[[Sequence[Append]], Plan] = no_fault
        self.is_away = False
        self.appends = 0
        self.reads = 0

    def _recorded_now(self) -> int:
        return self._now_us() if self._replayed_at_us is None else self._replayed_at_us

    # --- the port ----------------------------------------------------------------------------

    def append(self, batch: Sequence[Append]) -> list[AppendResult]:
        self.appends += 1
        plan = self.next_plan(batch)
        plan.before()
        if self.is_away or plan.refused:
            raise AWAY
        if plan.late:
            self._late.append(batch)
            raise AWAY
        results = self._store(batch)
        if plan.twice:
            results = self._store(batch)
        plan.after()
        if plan.answer_lost:
            raise AWAY
        return results

    def read_stream(
        self, stream: str, from_version: int = 0, *, backwards: bool = False, limit: int | None = None
    ) -> Iterator[Recorded]:
        self.reads += 1
        if self.is_away:
            raise AWAY
        first = max(from_version, self._hidden.get(stream, 0))
        return self._inner.read_stream(stream, first, backwards=backwards, limit=limit)

    def read_all(
        self, after: Position, limit: int, *, prefixes: Sequence[str] | None = None
    ) -> Iterator[Recorded]:
        return self._inner.read_all(after, limit, prefixes=prefixes)

    def follow(
        self, after: Position, *, stopped: Callable[[], bool], prefixes: Sequence[str] | None = None
    ) -> Iterator[Recorded | CaughtUp]:
        return self._inner.follow(after, stopped=stopped, prefixes=prefixes)

    def head(self) -> Position:
        return self._inner.head()

    def streams(self, *, after: str = "", prefix: str = "", limit: int = 100) -> list[tuple[str, int]]:
        return self._inner.streams(after=after, prefix=prefix, limit=limit)

    def close(self) -> None:
        self._inner.close()

    # --- what operators and networks do ------------------------------------------------------

    def land_late(self) -> None:
        """Appends that timed out arrive after all."""
        late, self._late = self._late, []
        for batch in late:
            self._store(batch)

    def restore(self, position: Position) -> None:
        """Put an older copy in place: everything after `position` is forgotten."""
        kept = list(self._inner.read_all(0, position))
        self._inner = MemoryStore(now_us=self._recorded_now)
        self._late.clear()
        for event in kept:
            self._replayed_at_us = event.recorded_at_us
            data = EventData(event.event_id, event.type, event.data, event.metadata)
            self._inner.append([Append(event.stream, event.version - 1, [data])])
        self._replayed_at_us = None

    def delete_history(self, stream: str) -> None:
        """Delete a stream the soft way: its events are gone, its numbering goes on."""
        self._hidden[stream] = self._versions(stream) + 1

    def put(self, stream: str, event: EventData) -> None:
        """Append at whatever version, as only a test may."""
        self._inner.append([Append(stream, self._versions(stream), [event])])

    def _versions(self, stream: str) -> int:
        last = next(self._inner.read_stream(stream, backwards=True, limit=1), None)
        return NO_STREAM if last is None else last.version

    def _store(self, batch: Sequence[Append]) -> list[AppendResult]:
        return [self._store_one(item) for item in batch]

    def _store_one(self, item: Append) -> AppendResult:
        hidden = self._hidden.get(item.stream, 0)
        if item.expected_version == NO_STREAM and hidden and self._versions(item.stream) == hidden - 1:
            item = replace(item, expected_version=hidden - 1)
        (result,) = self._inner.append([item])
        assert isinstance(result, Appended | VersionConflict), result
        return result
