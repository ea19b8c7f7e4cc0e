"""An event store in memory with the faults of networks and operators.

Networks: an unavailable store, a lost answer, an append that is stored late or twice, another worker's append
in between. Operators: a restored older copy, a deleted stream. The port's contract or the documentation allows
each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from adapters.memory.event_store import MemoryStore
from domain.kernel.errors import PartUnavailable, VersionConflict
from domain.kernel.events import NO_STREAM, EventData, Position, Recorded
from domain.kernel.ports.event_store import Append, Appended, AppendResult

UNAVAILABLE = PartUnavailable("event store", "the simulation cut the connection")


@dataclass
class Plan:
    """The faults of one append."""

    refused: bool = False  # it is not stored, and its caller gets no answer
    answer_lost: bool = False  # it is stored, and its caller gets no answer
    late: bool = False  # its caller gets no answer, and it is stored some time later
    twice: bool = False  # it arrives twice
    before: Callable[[], object] = lambda: None  # others act before it arrives
    after: Callable[[], object] = lambda: None  # others act before its answer arrives


def no_fault(batch: Sequence[Append]) -> Plan:
    return Plan()


class FaultyStore(MemoryStore):
    """`next_plan` decides the faults of each append."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._clock_us = now_us
        self._restored_at_us: int | None = None  # while an older copy is put in place
        self._first_version: dict[str, int] = {}  # of streams whose events were deleted
        self._late: list[Sequence[Append]] = []
        self.next_plan: Callable[[Sequence[Append]], Plan] = no_fault
        self.is_unavailable = False
        self.reads = 0
        super().__init__(now_us=self._recorded_now_us)

    def _recorded_now_us(self) -> int:
        return self._clock_us() if self._restored_at_us is None else self._restored_at_us

    def append(self, batch: Sequence[Append]) -> list[AppendResult]:
        plan = self.next_plan(batch)
        plan.before()
        if plan.late and not self.is_unavailable:
            self._late.append(batch)
        if self.is_unavailable or plan.refused or plan.late:
            raise UNAVAILABLE
        results = self._store(batch)
        if plan.twice:
            results = self._store(batch)
        plan.after()
        if plan.answer_lost:
            raise UNAVAILABLE
        return results

    def read_stream(
        self, stream: str, from_version: int = 0, *, backwards: bool = False, limit: int | None = None
    ) -> Iterator[Recorded]:
        self.reads += 1
        if self.is_unavailable:
            raise UNAVAILABLE
        first = max(from_version, self._first_version.get(stream, 0))
        return super().read_stream(stream, first, backwards=backwards, limit=limit)

    def plan_once(self, plan: Plan, *, prefix: str = "", skip: int = 0) -> None:
        """Let one append to a stream with this prefix, after `skip` others, go according to plan."""
        plans = [plan, *[Plan()] * skip]

        def next_plan(batch: Sequence[Append]) -> Plan:
            if not batch[0].stream.startswith(prefix):
                return Plan()
            if len(plans) == 1:
                self.next_plan = no_fault
            return plans.pop()

        self.next_plan = next_plan

    def store_late(self) -> None:
        """Store the appends that timed out."""
        late, self._late = self._late, []
        for batch in late:
            self._store(batch)

    def restore(self, position: Position) -> None:
        """Put an older copy in place: all events after `position` are lost."""
        kept = list(self.read_all(0, position))
        super().__init__(now_us=self._recorded_now_us)
        self._late.clear()
        for event in kept:
            self._restored_at_us = event.recorded_at_us
            data = EventData(event.event_id, event.type, event.data, event.metadata)
            super().append([Append(event.stream, event.version - 1, [data])])
        self._restored_at_us = None

    def delete_history(self, stream: str) -> None:
        """Delete a stream softly: its events are missing, its numbering continues."""
        self._first_version[stream] = self._version(stream) + 1

    def put(self, stream: str, event: EventData) -> None:
        """Append at the current version, without a decision."""
        super().append([Append(stream, self._version(stream), [event])])

    def _version(self, stream: str) -> int:
        last = next(super().read_stream(stream, backwards=True, limit=1), None)
        return NO_STREAM if last is None else last.version

    def _store(self, batch: Sequence[Append]) -> list[AppendResult]:
        return [self._store_one(item) for item in batch]

    def _store_one(self, item: Append) -> AppendResult:
        first = self._first_version.get(item.stream, 0)
        if item.expected_version == NO_STREAM and first and self._version(item.stream) == first - 1:
            item = replace(item, expected_version=first - 1)
        (result,) = super().append([item])
        assert isinstance(result, Appended | VersionConflict), result
        return result
