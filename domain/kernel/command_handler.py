"""Handle commands: load the stream, decide, append at the exact version. After a version conflict start again.

Promise: a command takes effect once, however often it is sent, because its outcome is in the stream: a stream that
holds the command id returns the first result. Refusal: it appends nothing without an expected version, and decides
on no state that it did not just load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Generic

from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_random_exponential

from domain.kernel.aggregate import Aggregate, C, S
from domain.kernel.errors import CommandIdReused, Damaged, DuplicateEventId, EsError, VersionConflict
from domain.kernel.events import BEGINNING, NO_STREAM, Event, Metadata, Position, Recorded, event_id
from domain.kernel.ports.codec import Codec, Keyring
from domain.kernel.ports.event_store import Append, Appended, EventStore

ATTEMPTS = 12
"""The maximum number of decisions for one command. Then the caller gets the conflict."""


@dataclass(frozen=True, slots=True)
class Order(Generic[C]):
    """A command for a stream. `subject` is the user whose data key seals its personal fields.

    `is_new` says that the stream does not exist yet. It is then not loaded before the first append.
    """

    command: C
    stream: str
    subject: int
    metadata: Metadata
    is_new: bool = False

    @property
    def reads(self) -> bool:
        return getattr(self.command, "reads", True)


@dataclass(frozen=True, slots=True)
class Done:
    """Version and position of the command's last event, or of the stream's last event if nothing had to change.

    `is_repeat` says that the command took effect before. Version and position are those of its first result.
    """

    version: int
    position: Position
    is_repeat: bool = field(default=False, compare=False)


Outcome = Done | EsError


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


class CommandHandler(Generic[S, C]):
    """Handles batches of commands of one aggregate, with one durable append for each attempt."""

    def __init__(
        self,
        aggregate: Aggregate[S, C],
        *,
        store: EventStore,
        codec: Codec,
        keyring: Callable[[Sequence[int]], Keyring],
        pause: Callable[[float], None],
    ) -> None:
        """`keyring` loads the data keys of subjects. `pause` waits the given number of seconds after a conflict."""
        self._aggregate = aggregate
        self._store = store
        self._codec = codec
        self._keyring = keyring
        self._until_no_conflict = until_no_conflict(pause)

    def handle(self, orders: Sequence[Order[C]]) -> list[Outcome]:
        """Return one outcome for each order, in order. Raises `PartUnavailable`; a retry is safe then."""
        outcomes: dict[int, Outcome] = {}
        for wave in _waves(orders):
            self._handle_wave(wave, outcomes)
        return [outcomes[index] for index in range(len(orders))]

    def _handle_wave(self, wave: Mapping[int, Order[C]], outcomes: dict[int, Outcome]) -> None:
        """Fill in the outcomes of a wave. After the last attempt a conflict is the outcome."""
        pending = wave

        def attempt() -> bool:
            nonlocal pending
            conflicts = self._attempt(pending, outcomes)
            pending = {index: replace(pending[index], is_new=False) for index in conflicts}
            return bool(pending)

        self._until_no_conflict(attempt)

    def _attempt(self, pending: Mapping[int, Order[C]], outcomes: dict[int, Outcome]) -> list[int]:
        """Decide and append each order once, fill in the outcomes, and return the indexes that met a conflict."""
        keyring = self._keyring([order.subject for order in pending.values()])
        appends: dict[int, Append] = {}
        for index, order in pending.items():
            planned = self._plan(order, keyring)
            if isinstance(planned, Append):
                appends[index] = planned
            else:
                outcomes[index] = planned
        results = self._store.append([*appends.values()]) if appends else []
        conflicts: list[int] = []
        for index, result in zip(appends, results, strict=True):
            match result:
                case Appended(version=version, position=position):
                    outcomes[index] = Done(version, position)
                case DuplicateEventId():
                    outcomes[index] = CommandIdReused(str(pending[index].metadata.command_id))
                case _:
                    outcomes[index] = result
                    if isinstance(result, VersionConflict):
                        conflicts.append(index)
        return conflicts

    def _plan(self, order: Order[C], keyring: Keyring) -> Append | Outcome:
        """The events to append for an order, or its outcome."""
        try:
            history, damage = ([], None) if order.is_new else self._history(order)
            first_result = self._first_result(order, history)
            if first_result is not None:
                return first_result
            state = self._aggregate.initial
            for recorded in history:
                if event := self._event(recorded, order, keyring):
                    state = self._aggregate.evolve(state, event)
            decided = self._aggregate.decide(state, order.command)
            if isinstance(decided, EsError):
                return damage or decided
            version = history[-1].version if history else NO_STREAM
            if not decided:
                return Done(version, history[-1].position if history else BEGINNING)
            command_id = order.metadata.command_id
            events = [
                self._codec.encode(
                    event,
                    event_id=event_id(command_id, index),
                    subject=order.subject,
                    metadata=order.metadata,
                    sealer=keyring,
                )
                for index, event in enumerate(decided)
            ]
            return Append(order.stream, version, events)
        except EsError as error:  # of this stream only: the other orders continue
            return error

    def _history(self, order: Order[C]) -> tuple[list[Recorded], Damaged | None]:
        """The stream. For a command that reads no data also what is left of a truncated one, and the damage."""
        try:
            return list(self._store.read_stream(order.stream)), None
        except Damaged as damage:
            left: list[Recorded] = []
            with suppress(Damaged):
                left.extend(self._store.read_stream(order.stream, backwards=True))
            if order.reads or not left:
                raise
            return left[::-1], damage

    def _event(self, recorded: Recorded, order: Order[C], keyring: Keyring) -> Event | None:
        """The event for a decision. A command that reads no data gets its outline: nothing can be unreadable in it."""
        if order.reads:
            return self._codec.decode(recorded, subject=order.subject, opener=keyring)
        return self._codec.outline(recorded)

    def _first_result(self, order: Order[C], history: Sequence[Recorded]) -> Outcome | None:
        for recorded in reversed(history):
            try:
                metadata = self._codec.metadata(recorded)
            except Damaged:
                if order.reads:
                    raise
                continue
            if metadata.command_id == order.metadata.command_id:
                if metadata.command != order.metadata.command:
                    return CommandIdReused(str(metadata.command_id))
                return Done(recorded.version, recorded.position, is_repeat=True)
        return None


def _waves(orders: Sequence[Order[C]]) -> Iterator[dict[int, Order[C]]]:
    """Divide orders, by index, so that no wave holds a stream twice: a later command sees the earlier ones."""
    waiting = dict(enumerate(orders))
    while waiting:
        wave: dict[int, Order[C]] = {}
        streams: set[str] = set()
        for index, order in waiting.items():
            if order.stream not in streams:
                streams.add(order.stream)
                wave[index] = order
        yield wave
        waiting = {index: order for index, order in waiting.items() if index not in wave}
