"""The read model: the rows of projections in generations, each with its checkpoint.

Each docstring is a contract, and `tests/contract` tests every sentence over every adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from domain.kernel.events import Position
from domain.kernel.history import History
from domain.kernel.ports.identity import Identified
from domain.kernel.projection import Key, Merged, Operation, Projection, Value


class GenerationState(StrEnum):
    CURRENT = "current"  # what queries read and the projector fills
    BUILDING = "building"  # a rebuild fills it, or it catches up before a switch
    CHECKED = "checked"  # a check filled it and compared it with the current one
    RETIRED = "retired"  # was current before the last switch


class Why(StrEnum):
    """Why a generation was begun, or why it is being filled again."""

    UNKNOWN = ""  # an earlier version began it
    FIRST_USE = "first-use"
    REBUILD = "rebuild"
    CHECK = "check"  # it is compared, and never promoted by itself
    SWITCH = "switch"  # a stored generation catches up, then it is promoted
    ROLLBACK = "rollback"  # likewise
    OTHER_HISTORY = "other-history"  # the rows of the current one are not those of the store
    CANCELLED = "cancelled"  # it is not complete, and about to be removed


STORED_ALREADY = frozenset({Why.SWITCH, Why.ROLLBACK})
"""The reasons for which a generation that was built before is filled again."""


ADOPTED = ">"
"""Stands in a generation's `code` between the code that built it and the other code that fills it now."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One complete set of a projection's rows. Every event up to `checkpoint` is in it or parked.

    `marks` are those of its `history`. `code` tells the behaviour of the projection that built it; it is empty if an
    earlier version began it. After other code adopted it, it is `first>last`, and no code built it.
    """

    projection: str
    number: int
    state: GenerationState
    checkpoint: Position
    events: int
    started_at_us: int
    finished_at_us: int | None
    marks: bytes = b""
    why: Why = field(default=Why.UNKNOWN, compare=False)
    code: str = field(default="", compare=False)
    retired_at_us: int | None = field(default=None, compare=False)

    @property
    def filled_by(self) -> str:
        """The code that fills it now."""
        return self.code.rpartition(ADOPTED)[2]

    def adopted_by(self, code: str) -> str:
        """Its `code` once this code fills it as well."""
        return self.code.partition(ADOPTED)[0] + ADOPTED + code

    @property
    def history(self) -> History:
        return History.from_bytes(self.checkpoint, self.marks)


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that a projection could not apply, and the error. Later events of its stream are parked too."""

    position: Position
    stream: str
    error: str


@dataclass(frozen=True, slots=True)
class Phase:
    """A time for which a generation was building or current. `rows` may be known once it has ended.

    `events` are those that were applied meanwhile, or so far.
    """

    generation: int
    state: GenerationState
    why: Why
    code: str
    from_us: int
    to_us: int | None
    rows: int | None
    events: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a comparison of two generations, as text. It is empty while the comparison is asked for."""

    first: int
    second: int
    at_us: int
    text: str


class Snapshot(Protocol):
    """A generation as it was at one moment, whatever is applied to it since."""

    @property
    def generation(self) -> Generation: ...

    @property
    def parked(self) -> int:
        """The number of its parked events."""
        ...

    def rows(self, after: Key | None, limit: int) -> list[dict[str, Value]]:
        """The rows after a key, in order of key, with every column that the generation has."""
        ...


class ReadModel(Identified, Protocol):
    """Rows, checkpoints and generations of all projections. Any method raises `PartUnavailable` in an outage."""

    def prepare(self, projection: Projection, *, now_us: int, code: str = "") -> Generation:
        """The current generation. On first use it is created without rows."""
        ...

    def generations(self, projection: Projection) -> list[Generation]:
        """All generations, oldest first."""
        ...

    def adopt(
        self, projection: Projection, generation: Generation, *, code: str, now_us: int
    ) -> Generation | None:
        """Record for ever that other code fills the current generation from now on, and return it.

        None, and nothing changes, if it is no longer the current one, or if its code is no longer the given one.
        """
        ...

    def columns(self, projection: Projection, generation: Generation) -> set[str]:
        """The columns of a generation's rows, without the key: those of the code that began it."""
        ...

    def apply(
        self,
        projection: Projection,
        generation: Generation,
        operations: Sequence[Operation] | Merged,
        *,
        reached: History,
        events: int,
        parked: Sequence[Parked] = (),
    ) -> Generation | None:
        """Apply operations in order, park, and move the checkpoint: one transaction. They may be merged already.

        Returns the generation as it is now. Returns None, and applies nothing, if the stored checkpoint, marks or
        state are no longer the given ones: another projector moved the checkpoint first, or the generation was
        replaced. The effect is that of `applied`, operation by operation. Raises ValueError, and applies
        nothing, if a sum leaves 64 bits or a column to add to is not a whole number. Additions of one batch
        to a column count as one: only their total is checked.
        """
        ...

    def change_parked(
        self,
        projection: Projection,
        generation: Generation,
        operations: Sequence[Operation],
        *,
        removed: Sequence[Position],
        parked: Sequence[Parked] = (),
    ) -> Generation | None:
        """Apply operations in order, take the events at `removed` off the parked ones, park: one transaction.

        Checkpoint and number of events stay. Returns the generation as it is now. Afterwards the given generation is
        refused: a projector that knows other parked events and rows starts over. Otherwise as `apply`.
        """
        ...

    def begin_rebuild(
        self,
        projection: Projection,
        *,
        now_us: int,
        instead_of: Generation | None = None,
        why: Why = Why.REBUILD,
        code: str = "",
    ) -> Generation:
        """The building generation: the unfinished one, or else a new one. Creating it removes retired ones.

        An unfinished one that is `instead_of` is removed, and a new one with a new number takes its place. A check
        keeps retired ones, and removes one that was checked before. An unfinished check becomes a rebuild if the
        current generation is of another history; otherwise an unfinished one keeps its reason.
        """
        ...

    def promote(
        self,
        projection: Projection,
        generation: Generation,
        *,
        now_us: int,
        other_history: bool = False,
        rows: int | None = None,
    ) -> bool:
        """Make a building generation the current one, and retire the current one, in one transaction.

        Returns False and changes nothing while it is behind the current one: readers never see less. With
        `other_history` the rows of the current one are not those of the store: it is replaced all the same.
        `rows` is their number, for `phases`.
        """
        ...

    def end_check(
        self, projection: Projection, generation: Generation, *, now_us: int, rows: int | None = None
    ) -> bool:
        """Make the building generation of a check a checked one. False if it is no longer such a one."""
        ...

    def resume(self, projection: Projection, number: int, *, now_us: int, why: Why) -> Generation | None:
        """Make a retired or checked generation the building one, to be filled from its checkpoint and promoted.

        None, and nothing changes, if there is no such generation or another one is building.
        """
        ...

    def cancel(self, projection: Projection, *, now_us: int) -> Generation | None:
        """End the building generation, and return it: it is retired again, or `CANCELLED`. None without one.

        A cancelled one is removed with the retired ones.
        """
        ...

    def prune(self, projection: Projection, *, keep: int = 0) -> list[int]:
        """Remove the retired and checked generations, but for the newest `keep`. Returns their numbers.

        Cancelled ones are removed in any case.
        """
        ...

    def clear(self, *, limit: int) -> bool:
        """Free the space of at most `limit` rows of removed generations, in one transaction. Returns whether more are left.

        To remove a generation takes no longer if it has more rows: a database that has to overwrite them leaves that to this.
        """
        ...

    def snapshot(self, projection: Projection, generation: Generation) -> AbstractContextManager[Snapshot]:
        """The generation as it is now, until the context ends. It blocks no `apply`.

        It belongs to the thread that opened it: that thread uses the read model again after its end. Raises
        `PartUnavailable` if the generation was removed.
        """
        ...

    def save_report(self, projection: Projection, report: Report) -> None:
        """Store a report in place of one of the same generations. It is removed with either of them."""
        ...

    def reports(self, projection: Projection) -> list[Report]:
        """The reports of comparisons, by generations."""
        ...

    def phases(self, projection: Projection, *, limit: int) -> list[Phase]:
        """The last times for which generations were building or current, oldest first."""
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
        prefix: str = "",
        where: Mapping[str, Value] | None = None,
        limit: int | None = None,
        generation: Generation | None = None,
    ) -> list[dict[str, Value]]:
        """Rows in order of key: those of `keys`, or those after a key that match `where`, each with its key.

        With `prefix` they are those whose text key starts with it. They are found by an index.
        They are rows of the given generation, or of the current one. A column that it does not have is null. Whole numbers are ordered by value and
        texts by code point. Raises `PartUnavailable` if the generation was removed or never existed.
        """
        ...

    def count(
        self, projection: Projection, *, prefix: str = "", limit: int, generation: Generation | None = None
    ) -> int:
        """The number of rows whose text key starts with `prefix`, at most `limit`.

        They are rows of the given generation, or of the current one.
        """
        ...

    def close(self) -> None:
        """Release all resources. A second call does nothing."""
        ...
