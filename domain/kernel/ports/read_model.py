"""What the domain needs from the outside. Each docstring is a contract: every sentence has a test.

Adapters implement these; `tests/contract` runs one suite per port over every adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from domain.kernel.events import Position
from domain.kernel.projection import Key, Operation, Projection, Value


class GenerationState(StrEnum):
    CURRENT = "current"  # what queries read and the projector fills
    BUILDING = "building"  # a rebuild fills it
    RETIRED = "retired"  # was current before the last rebuild


@dataclass(frozen=True, slots=True)
class Generation:
    """One complete set of a projection's rows. `checkpoint` is the last position that went into it."""

    projection: str
    number: int
    state: GenerationState
    checkpoint: Position
    events: int
    started_at_us: int
    finished_at_us: int | None


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that a projection could not apply, and why; later events of its stream are parked behind it."""

    position: Position
    stream: str
    error: str


class ReadModel(Protocol):
    """Rows of projections in generations, each with its checkpoint. Raises `PartUnavailable` when it is down."""

    def prepare(self, projection: Projection, *, now_us: int) -> Generation:
        """The current generation, made empty on first use."""
        ...

    def generations(self, projection: Projection) -> list[Generation]:
        """All generations, oldest first."""
        ...

    def apply(
        self,
        projection: Projection,
        generation: Generation,
        operations: Sequence[Operation],
        *,
        checkpoint: Position,
        events: int,
        parked: Sequence[Parked] = (),
    ) -> Generation | None:
        """Apply operations in order, park, and move the checkpoint: one transaction.

        Returns the generation as it is now. Returns None, and applies nothing, if the stored checkpoint or
        state is no longer the given one: another projector moved the checkpoint first, or the generation was
        replaced. The effect is that of `applied`, operation by operation. Raises ValueError, and applies
        nothing, if a sum leaves 64 bits or a column to add to is not a whole number. Additions of one batch
        to a column count as one: only their total is checked.
        """
        ...

    def begin_rebuild(self, projection: Projection, *, now_us: int) -> Generation:
        """The generation under construction: the unfinished one, or a new, empty one. Retired ones are removed."""
        ...

    def promote(self, projection: Projection, generation: Generation, *, now_us: int) -> bool:
        """Make a built generation the current one, and the current one retired, in one transaction.

        False, and nothing changed, while it is behind the current one: readers never see less.
        """
        ...

    def parked(self, projection: Projection, generation: Generation) -> list[Parked]:
        """What is parked in a generation, oldest first."""
        ...

    def rows(
        self,
        projection: Projection,
        *,
        keys: Sequence[Key] | None = None,
        after: Key | None = None,
        where: Mapping[str, Value] | None = None,
        limit: int | None = None,
        generation: Generation | None = None,
    ) -> list[dict[str, Value]]:
        """Rows in order of key: those of `keys`, or those after a key that match `where`, each with its key.

        They are rows of the given generation, or of the current one. Whole numbers are ordered by value and
        texts by code point. Raises `PartUnavailable` if the generation was removed or never existed.
        """
        ...

    def close(self) -> None:
        """Release what is held. Safe to call twice."""
        ...
