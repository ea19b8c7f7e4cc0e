"""Let the instances of a process take note of stored events, in order.

Promise: an event that an instance cannot take note of is held, with those after it, and no other instance waits for that.
Refusal: an outage holds nothing; it ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from domain.kernel.errors import EsError, Kind
from domain.kernel.events import Event, Position, Recorded
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.worklist import Opening, Worklist
from domain.kernel.process import Process
from domain.kernel.process_instance import Note
from workers.processes.instances import Happening, Instances, correlation_of, told

UNKNOWN = 0
"""Stands for the instance of an event that cannot be read, or whose correlation fails. No instance has this id."""
_MAX_ID = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Concern:
    """An event that concerns an instance. `event` is None if that cannot be told, because of `error`."""

    instance: int
    recorded: Recorded
    event: Event | None
    error: str = ""


class Noting:
    def __init__(
        self,
        process: Process[Any],
        *,
        instances: Instances,
        store: EventStore,
        codec: Codec,
        worklist: Worklist,
        now_us: Callable[[], int],
    ) -> None:
        self._process = process
        self._instances = instances
        self._store = store
        self._codec = codec
        self._worklist = worklist
        self._now_us = now_us

    def note(self, events: Sequence[Recorded]) -> list[Opening]:
        """Note events, and return what to list. Raises PartUnavailable; a repeat has no second effect."""
        waiting: dict[int, list[Concern]] = {}
        for recorded in events:
            if (concern := self._concern(recorded)) is not None:
                waiting.setdefault(concern.instance, []).append(concern)
        held = dict(self._worklist.quarantined(self._process.name, [*waiting])) if waiting else {}
        openings: list[Opening] = []
        while waiting:
            # One event of each instance at a time: those after an event that fails must wait behind it.
            openings += self._noted([concerns.pop(0) for concerns in waiting.values()], held)
            waiting = {instance: left for instance, left in waiting.items() if left}
        return openings

    def _noted(self, concerns: Sequence[Concern], held: dict[int, str]) -> list[Opening]:
        """Note at most one event of each instance. Adds to `held` the instances that fail."""
        held |= {concern.instance: concern.error for concern in concerns if concern.error}
        noted = [concern for concern in concerns if concern.instance not in held]
        results = self._instances.handle([self._happening(concern) for concern in noted])
        errors = {concern.instance: error for concern, error in zip(noted, results, strict=True)}
        held |= {instance: error for instance, error in errors.items() if error}
        return [
            Opening(concern.instance, concern.recorded.position, held.get(concern.instance, ""))
            for concern in concerns
            if errors.get(concern.instance, "") is not None
        ]

    def _happening(self, concern: Concern) -> Happening:
        assert concern.event is not None
        note = Note(concern.instance, concern.event, concern.recorded, self._now_us())
        return Happening(concern.instance, note, correlation_of(self._codec, concern.recorded))

    def _concern(self, recorded: Recorded) -> Concern | None:
        try:
            event = self._codec.decode(recorded)
        except EsError as error:
            if error.kind is Kind.UNAVAILABLE:
                raise
            return Concern(UNKNOWN, recorded, None, told(error))
        try:
            instance = self._process.instance_of(event, recorded.stream)
        except Exception as error:  # an author's code may raise anything
            why = f"the correlation of {recorded.type} raises {type(error).__name__}"
            return Concern(UNKNOWN, recorded, None, why)
        if instance is None:
            return None
        if type(instance) is not int or not 0 < instance <= _MAX_ID:
            return Concern(UNKNOWN, recorded, None, f"the correlation of {recorded.type} returns no id")
        return Concern(instance, recorded, event)

    # --- held events ---------------------------------------------------------------------------

    def release(self, instance: int, held: Sequence[Position]) -> tuple[list[Position], list[Opening], str]:
        """Note held events of an instance in order, up to the first that fails.

        Returns those that need not be held any more, what else to list, and the error.
        """
        released: list[Position] = []
        openings: list[Opening] = []
        for position in held:
            concern = self._at(position)
            if concern is not None and not concern.error:
                if concern.instance == instance:
                    (error,) = self._instances.handle([self._happening(concern)])
                    if error:
                        return released, openings, error
                else:  # it was held without knowing its instance
                    openings += self.note([concern.recorded])
            elif concern is not None:
                return released, openings, concern.error
            released.append(position)
        return released, openings, ""

    def _at(self, position: Position) -> Concern | None:
        """What the event at a position concerns; None without one: an older copy of the store was restored."""
        recorded = next(iter(self._store.read_all(position - 1, 1)), None)
        if recorded is None or recorded.position != position:
            return None
        return self._concern(recorded)
