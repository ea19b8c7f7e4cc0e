"""Handle commands: load the stream, decide, append at the exact version. After a version conflict start again.

Promise: a command takes effect once, however often it is sent, because its outcome is in the stream: a stream that
holds the command id returns the first result. A batch waits once for its streams and once for its append. It waits once
for its keys: before its streams in an aggregate of persons, and otherwise after them, because their events name persons. The commands of one stream are decided one after the other, each on the state that the one before left, and
their events are one append: all are stored or none, so no decision outlives one that it relied on. Refusal: it appends
nothing without an expected version, and decides on no state that it did not just load. What it keeps of a long stream
(`kept_states.py`) replaces the events up to a version only, and it always reads the event at that version and all later ones.
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
from domain.kernel.events import EventData, Position, Recorded
from domain.kernel.kept_states import KeptStates, Known
from domain.kernel.loaded_stream import Decided, LoadedStream
from domain.kernel.orders import Done, Order, Outcome
from domain.kernel.personal import subject_fields
from domain.kernel.ports.codec import Codec, Keyring
from domain.kernel.ports.event_store import Append, Appended, AppendResult, EventStore
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
    ) -> None:
        """`keyring` loads the data keys of subjects. `pause` waits the given number of seconds after a conflict."""
        self._aggregate = aggregate
        self._store = store
        self._codec = codec
        self._keyring = keyring
        self._kept = kept or KeptStates(aggregate)
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

        self._until_no_conflict(attempt)
        for line in pending:
            assert line.conflict is not None
            # Of the whole line: others would wait for twelve more attempts of each of its orders.
            outcomes.update(dict.fromkeys(line.waiting, line.conflict))
            line.waiting.clear()

    def _attempt(self, lines: Sequence[_Line[C]], outcomes: dict[int, Outcome]) -> list[_Line[C]]:
        """Decide and append the first orders of each line once, and return the lines that met a conflict."""
        keyring = self._keyring([line.person for line in lines if line.person is not None])
        loaded = self._load(lines, keyring)
        plans = [_planned(line, loaded[line.stream]) for line in lines]
        changing = [plan for plan in plans if plan.events]
        results = self._store.append([plan.append() for plan in changing]) if changing else []
        positions = self._positions(changing, results)
        for plan, result in zip(changing, results, strict=True):
            if isinstance(result, Appended):
                self._stored(plan, result, positions.get(plan.line.stream, {}), keyring)
            else:
                _failed(plan, result)
        for plan in plans:
            outcomes.update(plan.outcomes)
            plan.line.settle(plan.outcomes)
        return [line for line in lines if line.conflict is not None]

    # --- load ----------------------------------------------------------------------------------

    def _load(self, lines: Sequence[_Line[C]], keyring: Keyring) -> dict[str, LoadedStream[S, C]]:
        """The streams of the lines, up to their last events. A new stream is not read."""
        known: dict[str, Known[S]] = {}
        keyring.load(self._kept.people(line.stream for line in lines if not line.is_new))
        for line in lines:
            if not line.is_new and (kept := self._kept.opened(line.stream, keyring)):
                known[line.stream] = kept
        first = {stream: kept.version for stream, kept in known.items()}
        found = dict(remaining(self._store, [line.stream for line in lines if not line.is_new], first))
        other = [stream for stream, kept in known.items() if not _continues(kept, *found[stream])]
        found.update(remaining(self._store, other))
        for name in other:
            self._kept.forget(name)
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
            )
            if kept and (versions := stream.repeated([*line.first().values()])):
                stream.found(events_at(self._store, line.stream, versions))
            if self._kept.is_long(stream.version) and (kept is None or len(history) > 1):
                # Before the decisions: after a conflict this is not read again.
                self._kept.keep(line.stream, line.person, stream.known(line.person), keyring)
        return loaded

    def _named(self, found: Mapping[str, Remaining]) -> Mapping[str, set[int]]:
        """The persons that the events name, by stream."""
        if not self._names_people:
            return {}
        return {
            stream: {person for event in history for person in self._codec.subjects(event)}
            for stream, (history, _) in found.items()
        }

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
        if self._kept.is_long(loaded.version) and not skipped:
            known = loaded.known_after(line.person, plan.events[-1], last.position)
            self._kept.keep(line.stream, line.person, known, keyring)


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


def _failed(plan: _Plan[S, C], result: EsError) -> None:
    """Leave the outcomes that hold although nothing was stored: those before the first change.

    The others were decided on events that do not exist. They are decided again, fewer at once: the window for a
    conflict is then shorter, and at last the order whose event cannot be stored is alone.
    """
    line, first = plan.line, plan.changing[0]
    decided, plan.outcomes = plan.outcomes, {}
    for index, outcome in decided.items():
        if index == first:
            break
        plan.outcomes[index] = outcome
    line.limit = max(1, min(line.limit, len(decided)) // 2)
    if isinstance(result, VersionConflict):
        line.conflict = result
    elif isinstance(result, PartUnavailable):
        plan.outcomes.update(dict.fromkeys(plan.changing, result))
    elif len(plan.changing) == 1:
        is_reused = isinstance(result, DuplicateEventId)
        id_ = line.waiting[first].metadata.command_id
        plan.outcomes[first] = CommandIdReused(str(id_)) if is_reused else result
