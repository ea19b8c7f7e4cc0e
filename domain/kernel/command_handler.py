"""Handle commands: load the stream, decide, append at the exact version. After a version conflict start again.

Promise: a command takes effect once, however often it is sent, because its outcome is in the stream: a stream that
holds the command id returns the first result. A batch waits once for its streams and once for its append. It waits once
for its keys: before its streams in an aggregate of persons, and otherwise after them, because their events name persons. The commands of one stream are decided one after the other, each on the state that the one before left, and
their events are one append: all are stored or none, so no decision outlives one that it relied on. Refusal: it appends
nothing without an expected version, and gives no outcome that the stream did not just prove: by a read, or by an append at
the version that was decided on. What it keeps of a long stream (`kept_states.py`) replaces the events up to a version only,
and it always reads the event at that version and all later ones. What it remembers of a recent one (`recent_streams.py`) is
enough for a decision that appends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic

from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_random_exponential

from domain.kernel.aggregate import Aggregate, C, S
from domain.kernel.errors import (
    CommandIdReused,
    Damaged,
    DuplicateEventId,
    EsError,
    PartUnavailable,
    VersionConflict,
)
from domain.kernel.events import BEGINNING, EventData, Position, Recorded
from domain.kernel.kept_states import KeptStates, Known
from domain.kernel.loaded_stream import Decided, LoadedStream
from domain.kernel.orders import Done, Order, Outcome
from domain.kernel.personal import subject_fields
from domain.kernel.ports.codec import Codec, Keyring
from domain.kernel.ports.event_store import Append, Appended, AppendResult, EventStore
from domain.kernel.recent_streams import RecentStreams, stored
from domain.kernel.streams import Remaining, events_at, remaining

ATTEMPTS = 12
"""The maximum number of decisions for one command. Then the caller gets the conflict."""


def until_no_conflict(pause: Callable[[float], None]) -> Retrying:
    """Repeat a call while it returns a true value, which stands for a version conflict: at most `ATTEMPTS` calls.

    `pause` waits the given number of seconds. The waits are jittered, so that competing workers do not collide again.
    """
    return Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.002, max=0.1),
        retry=retry_if_result(bool),
        retry_error_callback=lambda _: None,
        sleep=pause,
    )


@dataclass(slots=True, eq=False)
class _Line(Generic[C]):
    """The orders for one stream that have no outcome, by index. The first `limit` of them are decided together."""

    stream: str
    person: int | None
    """The person whose stream it is."""
    is_new: bool
    waiting: dict[int, Order[C]]
    limit: int
    conflict: EsError | None = None
    """The result of the last attempt, if it was a version conflict."""

    def first(self) -> dict[int, Order[C]]:
        if self.limit >= len(self.waiting):
            return self.waiting
        return dict(list(self.waiting.items())[: self.limit])

    def settle(self, outcomes: Mapping[int, Outcome]) -> None:
        if len(outcomes) == len(self.waiting):
            self.waiting.clear()
        for index in outcomes if self.waiting else ():
            del self.waiting[index]


@dataclass(slots=True, eq=False)
class _Plan(Generic[S, C]):
    """The decisions on the first orders of a line: what is appended, and the outcomes that hold once it is stored."""

    line: _Line[C]
    loaded: LoadedStream[S, C]
    events: list[EventData] = field(default_factory=list)
    changing: list[int] = field(default_factory=list)
    """The orders to which the events belong."""
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def append(self) -> Append:
        return Append(self.line.stream, self.loaded.expected_version, self.events)

    def needs_positions(self) -> bool:
        """Whether an outcome needs the position of an event before the last one."""
        expected, last = self.loaded.expected_version, self.loaded.version
        return any(isinstance(o, Done) and expected < o.version < last for o in self.outcomes.values())


class CommandHandler(Generic[S, C]):
    """Handles batches of commands of one aggregate, with one durable append for each attempt. For one thread at a time."""

    def __init__(
        self,
        aggregate: Aggregate[S, C],
        *,
        store: EventStore,
        codec: Codec,
        keyring: Callable[[Sequence[int]], Keyring],
        pause: Callable[[float], None],
        kept: KeptStates[S, C] | None = None,
        recent: RecentStreams | None = None,
    ) -> None:
        """`keyring` loads the data keys of subjects. `pause` waits the given number of seconds after a conflict.

        Without `recent` every stream is read that is not new.
        """
        self._aggregate = aggregate
        self._store = store
        self._codec = codec
        self._keyring = keyring
        self._kept = kept or KeptStates(aggregate)
        self._recent = recent
        self._names_people = any(map(subject_fields, aggregate.events))
        self._until_no_conflict = until_no_conflict(pause)

    def handle(self, orders: Sequence[Order[C]]) -> list[Outcome]:
        """Return one outcome for each order, in order. Raises `PartUnavailable`; a retry is safe then."""
        outcomes: dict[int, Outcome] = {}
        lines: dict[str, _Line[C]] = {}
        for index, order in enumerate(orders):
            line = lines.get(order.stream)
            if line is None:
                line = lines[order.stream] = _Line(order.stream, order.person, order.is_new, {}, len(orders))
            line.waiting[index] = order
        while waiting := [line for line in lines.values() if line.waiting]:
            self._handle_first(waiting, outcomes)
        return [outcomes[index] for index in range(len(orders))]

    def _handle_first(self, lines: list[_Line[C]], outcomes: dict[int, Outcome]) -> None:
        """Find outcomes for the first orders of each line. After the last attempt a conflict is that of the line."""
        pending = lines

        def attempt() -> bool:
            nonlocal pending
            pending = self._attempt(pending, outcomes)
            return bool(pending)

        try:
            self._until_no_conflict(attempt)
        except PartUnavailable:
            self._forget_all()
            raise
        for line in pending:
            assert line.conflict is not None
            # Of the whole line: others would wait for twelve more attempts of each of its orders.
            outcomes.update(dict.fromkeys(line.waiting, line.conflict))
            line.waiting.clear()

    def _attempt(self, lines: Sequence[_Line[C]], outcomes: dict[int, Outcome]) -> list[_Line[C]]:
        """Decide and append the first orders of each line once, and return the lines that met a conflict."""
        keyring = self._keyring([line.person for line in lines if line.person is not None])
        plans = self._proven(self._plans(lines, keyring, self._recent), keyring)
        changing = [plan for plan in plans if plan.events]
        # A store takes an event of this command that another handler stored for a retry of it, and answers with its
        # position, which is not after this one. Then the stream tells: the command id may have been used for another.
        before = self._store.head() if any(plan.loaded.is_recent for plan in changing) else BEGINNING
        results = self._store.append([plan.append() for plan in changing]) if changing else []
        positions = self._positions(changing, results)
        for plan, result in zip(changing, results, strict=True):
            if isinstance(result, Appended) and plan.loaded.is_recent and result.position <= before:
                expected = plan.loaded.expected_version
                self._failed(plan, VersionConflict(plan.line.stream, expected, result.version))
            elif isinstance(result, Appended):
                self._stored(plan, result, positions.get(plan.line.stream, {}), keyring)
            else:
                self._failed(plan, result)
        for plan in plans:
            outcomes.update(plan.outcomes)
            plan.line.settle(plan.outcomes)
        return [line for line in lines if line.conflict is not None]

    def _plans(
        self, lines: Sequence[_Line[C]], keyring: Keyring, recent: RecentStreams | None
    ) -> list[_Plan[S, C]]:
        loaded = self._load(lines, keyring, recent)
        return [_planned(line, loaded[line.stream]) for line in lines]

    def _proven(self, plans: Sequence[_Plan[S, C]], keyring: Keyring) -> list[_Plan[S, C]]:
        """The plans; for one that appends nothing on a stream that was only remembered, that on the stream as it is."""
        unproven = [plan.line for plan in plans if plan.loaded.is_recent and not plan.events]
        read = iter(self._plans(unproven, keyring, None) if unproven else ())
        return [next(read) if plan.loaded.is_recent and not plan.events else plan for plan in plans]

    # --- load ----------------------------------------------------------------------------------

    def _load(
        self, lines: Sequence[_Line[C]], keyring: Keyring, recent: RecentStreams | None
    ) -> dict[str, LoadedStream[S, C]]:
        """The streams of the lines, up to their last events, or up to those that are remembered. A new one is not read."""
        existing = [line.stream for line in lines if not line.is_new]
        remembered = {
            stream: events
            for stream in existing
            if recent is not None and (events := recent.events(stream)) is not None
        }
        unread = [stream for stream in existing if stream not in remembered] if remembered else existing
        known: dict[str, Known[S]] = {}
        keyring.load(self._kept.people(unread))
        for name in unread:
            if kept := self._kept.opened(name, keyring):
                known[name] = kept
        first = {stream: kept.version for stream, kept in known.items()}
        found = dict(remaining(self._store, unread, first))
        other = [stream for stream, kept in known.items() if not _continues(kept, *found[stream])]
        found.update(remaining(self._store, other))
        for name in other:
            self._kept.forget(name)
        found.update({stream: (events, None) for stream, events in remembered.items()})
        named = self._named(found)
        ordered = (
            person for line in lines for order in line.waiting.values() for person in order.people or ()
        )
        keyring.load({*ordered, *(person for people in named.values() for person in people)})
        loaded: dict[str, LoadedStream[S, C]] = {}
        for line in lines:
            history, damage = found.get(line.stream, ([], None))
            kept = known.get(line.stream) if line.stream not in other else None
            stream = loaded[line.stream] = LoadedStream(
                self._aggregate,
                self._codec,
                keyring,
                known=kept or Known(self._aggregate.initial, {}),
                history=history[1:] if kept else history,
                damage=damage,
                subjects=named.get(line.stream, ()),
                is_recent=line.stream in remembered,
            )
            if kept and (versions := stream.repeated([*line.first().values()])):
                stream.found(events_at(self._store, line.stream, versions))
            if self._kept.is_long(stream.version) and (kept is None or len(history) > 1):
                # Before the decisions: after a conflict this is not read again.
                self._kept.keep(line.stream, line.person, stream.known(line.person), keyring)
            elif self._recent is not None and history and not stream.is_recent:
                self._remember(line.stream, stream.whole)
        return loaded

    def _named(self, found: Mapping[str, Remaining]) -> Mapping[str, set[int]]:
        """The persons that the events name, by stream."""
        if not self._names_people:
            return {}
        return {
            stream: {person for event in history for person in self._codec.subjects(event)}
            for stream, (history, _) in found.items()
        }

    def _remember(self, stream: str, events: Sequence[Recorded] | None) -> None:
        """Remember a stream with all of its events, unless it is long; without them forget it."""
        if self._recent is None:
            return
        if events is None or self._kept.is_long(len(events) - 1):
            self._recent.forget(stream)
        else:
            self._recent.remember(stream, events)

    def _forget_all(self) -> None:
        if self._recent is not None:
            self._recent.forget_all()  # the store may be restored meanwhile

    # --- results -------------------------------------------------------------------------------

    def _positions(
        self, plans: Sequence[_Plan[S, C]], results: Sequence[AppendResult]
    ) -> dict[str, dict[int, Position]]:
        """The positions of the stored events by version, of each stream with several commands, in one wait."""
        first = {
            plan.line.stream: result.version - len(plan.events) + 1
            for plan, result in zip(plans, results, strict=True)
            if isinstance(result, Appended) and plan.needs_positions()
        }
        if not first:
            return {}
        found = self._store.read_streams([*first], first=first)
        return {
            stream: {} if isinstance(events, Damaged) else {event.version: event.position for event in events}
            for stream, events in found.items()
        }

    def _stored(
        self, plan: _Plan[S, C], last: Appended, positions: Mapping[int, Position], keyring: Keyring
    ) -> None:
        line, loaded = plan.line, plan.loaded
        # The numbers of a stream that was deleted go on, although nothing of it can be read.
        skipped = last.version - loaded.version
        for index, outcome in plan.outcomes.items():
            if isinstance(outcome, Done) and outcome.version > loaded.expected_version:
                version = outcome.version + skipped
                position = positions.get(version, last.position)
                plan.outcomes[index] = Done(version, position, outcome.is_repeat, outcome.is_unchanged)
        line.limit *= 2
        whole = loaded.whole
        if whole is not None and len(plan.events) == 1 and not skipped:
            self._remember(line.stream, [*whole, stored(line.stream, last, plan.events[0])])
        else:
            self._remember(line.stream, None)
        if self._kept.is_long(loaded.version) and not skipped:
            known = loaded.known_after(line.person, plan.events[-1], last.position)
            self._kept.keep(line.stream, line.person, known, keyring)

    def _failed(self, plan: _Plan[S, C], result: EsError) -> None:
        """Leave the outcomes that hold although nothing was stored: those before the first change, if the stream was read.

        The others were decided on events that do not exist. They are decided again, fewer at once: the window for a
        conflict is then shorter, and at last the order whose event cannot be stored is alone.
        """
        line, first = plan.line, plan.changing[0]
        decided, plan.outcomes = plan.outcomes, {}
        for index, outcome in decided.items():
            if index == first or plan.loaded.is_recent:
                break
            plan.outcomes[index] = outcome
        self._remember(line.stream, None)
        line.limit = max(1, min(line.limit, len(decided)) // 2)
        if isinstance(result, VersionConflict):
            line.conflict = result
        elif isinstance(result, PartUnavailable):
            self._forget_all()
            plan.outcomes.update(dict.fromkeys(plan.changing, result))
        elif len(plan.changing) == 1:
            is_reused = isinstance(result, DuplicateEventId)
            id_ = line.waiting[first].metadata.command_id
            plan.outcomes[first] = CommandIdReused(str(id_)) if is_reused else result


def _continues(known: Known[S], history: Sequence[Recorded], damage: Damaged | None) -> bool:
    """Whether a stream still holds the event up to which it is known."""
    return damage is None and bool(history) and history[0].event_id == known.event_id


def _planned(line: _Line[C], loaded: LoadedStream[S, C]) -> _Plan[S, C]:
    """Decide the first orders of a line, each on the state that the ones before leave."""
    plan = _Plan(line, loaded)
    for index, order in line.first().items():
        decided = loaded.decide(order)
        if isinstance(decided, Decided):
            plan.events += decided.events
            plan.changing.append(index)
            plan.outcomes[index] = decided.outcome
        else:
            plan.outcomes[index] = decided
    line.is_new = False  # read it at another attempt
    line.conflict = None
    return plan
