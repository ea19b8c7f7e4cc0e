"""How far a follower has read, and in which history: a position with marks of events that were read.

Promise: a store that was restored from an older copy, or swapped, is noticed by the ids of its events, also after it has
grown past the position. Refusal: an event that is absent proves nothing, because a scavenge may have removed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from struct import Struct
from uuid import UUID

from domain.kernel.events import BEGINNING, Position

_MARK = Struct(">q16s")
_CHANGES = Struct(">I")


@dataclass(frozen=True, slots=True)
class Mark:
    """An event that was read: its position and its id."""

    position: Position
    event_id: UUID


class Fit(StrEnum):
    """What a store holds at the position of a mark."""

    SAME = "same"  # the event of the mark
    OTHER = "other"  # another event, no beginning of an event, or the store ends before: another history
    ABSENT = (
        "absent"  # no event, but later ones exist: it was removed, or was never there; this proves nothing
    )


@dataclass(frozen=True, slots=True)
class History:
    """`position` was reached. `marks` lie at doubling distances back from it, in order of position.

    A checkpoint that an earlier version saved has a position without marks.
    """

    position: Position = BEGINNING
    marks: tuple[Mark, ...] = ()

    def reach(self, mark: Mark) -> History:
        """The history after the event of a mark was read. An event before `position` changes nothing."""
        if mark.position < self.position:
            return self
        return History(
            mark.position, _thinned([*(m for m in self.marks if m.position < mark.position), mark])
        )

    def back_to(self, position: Position) -> History:
        """The history up to a position, which becomes its last one."""
        return History(position, tuple(mark for mark in self.marks if mark.position <= position))

    def to_bytes(self) -> bytes:
        """The marks, 24 bytes each; at most 64 of them. The position is stored beside them."""
        return b"".join(_MARK.pack(mark.position, mark.event_id.bytes) for mark in self.marks)

    @classmethod
    def from_bytes(cls, position: Position, raw: bytes) -> History:
        """The inverse of `to_bytes`. Marks after the position are left out: an earlier version moved it back."""
        whole = raw[: len(raw) - len(raw) % _MARK.size]
        marks = (Mark(at, UUID(bytes=id_)) for at, id_ in _MARK.iter_unpack(whole))
        return cls(position, tuple(mark for mark in marks if mark.position <= position))


def other_bytes(raw: bytes) -> bytes:
    """Bytes that differ from `raw` and hold the same marks: they end with a count, which `from_bytes` leaves out.

    A read model compares the stored bytes, so this stops a projector that has read the others.
    """
    whole = len(raw) - len(raw) % _MARK.size
    (count,) = _CHANGES.unpack(raw[whole : whole + _CHANGES.size].rjust(_CHANGES.size, b"\0"))
    return raw[:whole] + _CHANGES.pack((count + 1) % (1 << 32))


@dataclass(frozen=True, slots=True)
class Verified:
    """The part of a history that a store has. `diverged` says that the store has another history after it."""

    history: History
    diverged: bool


def verified(history: History, fit: Callable[[Mark], Fit], head: Position) -> Verified:
    """Compare a history with a store. `fit` looks up one mark; `head` was read before.

    With another history it goes back to the last mark before the first difference that is the same event, or to the
    beginning.
    """
    fits = [(mark, fit(mark)) for mark in history.marks]
    others = [mark.position for mark, found in fits if found is Fit.OTHER]
    # A mark at the position tells by itself whether the store ends before. The head may: the last event was scavenged.
    has_mark = history.marks[-1:] and history.marks[-1].position == history.position
    if not others and (has_mark or head >= history.position):
        return Verified(history, diverged=False)
    limit = min([*others, head + 1])
    same = [mark.position for mark, found in fits if found is Fit.SAME and mark.position < limit]
    return Verified(history.back_to(max(same, default=BEGINNING)), diverged=True)


def _thinned(marks: list[Mark]) -> tuple[Mark, ...]:
    """Keep the last mark, and of each range of distances from it, [2^n, 2^(n+1)), the farthest one.

    The farthest, because it stays in its range longest: the marks that follow would otherwise never get old.
    """
    last = marks[-1].position
    farthest: dict[int, Mark] = {}
    for mark in marks:  # in order of position: the first of a range is its farthest
        farthest.setdefault((last - mark.position).bit_length(), mark)
    return tuple(_in_order(farthest.values()))


def _in_order(marks: Iterable[Mark]) -> list[Mark]:
    return sorted(marks, key=lambda mark: mark.position)
