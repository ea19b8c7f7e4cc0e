"""The read model: the rows of projections in generations, each with its checkpoint.

Each docstring is a contract, and `tests/contract` tests every sentence over every adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from domain.kernel.events import Position
from domain.kernel.history import History
from domain.kernel.ports.identity import Identified
from domain.kernel.projection import Key, Operation, Projection, Value


class GenerationState(StrEnum):
    CURRENT = "current"  # what queries read and the projector fills
    BUILDING = "building"  # a rebuild fills it
    RETIRED = "retired"  # was current before the last rebuild


@dataclass(frozen=True, slots=True)
class Generation:
    """One complete set of a projection's rows. Every event up to `checkpoint` is in it or parked.

    `marks` are those of its `history`.
    """

    projection: str
    number: int
    state: GenerationState
    checkpoint: Position
    events: int
    started_at_us: int
    finished_at_us: int | None
    marks: bytes = b""

    @property
    def history(self) -> History:
        return History.from_bytes(self.checkpoint, self.marks)


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that a projection could not apply, and the error. Later events of its stream are parked too."""

    position: Position
    stream: str
    error: str


class ReadModel(Identified, Protocol):
    """Rows, checkpoints and generations of all projections. Any method raises `PartUnavailable` in an outage."""

    def prepare(self, projection: Projection, *, now_us: int) -> Generation:
        """The current generation. On first use it is created without rows."""
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
        reached: History,
        events: int,
        parked: Sequence[Parked] = (),
    ) -> Generation | None:
        """Apply operations in order, park, and move the checkpoint: one transaction.

        Returns the generation as it is now. Returns None, and applies nothing, if the stored checkpoint, marks or
        state are no longer the given ones: another projector moved the checkpoint first, or the generation was
        replaced. The effect is that of `applied`, operation by operation. Raises ValueError, and applies
        nothing, if a sum leaves 64 bits or a column to add to is not a whole number. Additions of one batch
        to a column count as one: only their total is checked.
        """
        ...

    def begin_rebuild(
        self, projection: Projection, *, now_us: int, instead_of: Generation | None = None
    ) -> Generation:
        """The building generation: the unfinished one, or else a new one. Creating it removes retired ones.

        An unfinished one that is `instead_of` is removed, and a new one with a new number takes its place.
        """
        ...

    def promote(
        self, projection: Projection, generation: Generation, *, now_us: int, other_history: bool = False
    ) -> bool:
        """Make a built generation the current one, and retire the current one, in one transaction.

        Returns False and changes nothing while it is behind the current one: readers never see less. With
        `other_history` the rows of the current one are not those of the store: it is replaced all the same.
        """
        ...

    def parked(self, projection: Projection, generation: Generation) -> list[Parked]:
        """The parked events of a generation, oldest first."""
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
        """Release all resources. A second call does nothing."""
        ...
