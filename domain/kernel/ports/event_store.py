"""What the domain needs from the outside. Each docstring is a contract: every sentence has a test.

Adapters implement these; `tests/contract` runs one suite per port over every adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from domain.kernel.errors import DuplicateEventId, EsError, VersionConflict
from domain.kernel.events import EventData, Position, Recorded


@dataclass(frozen=True, slots=True)
class Append:
    """All of `events`, in order, to `stream`, which must be at `expected_version` (-1: must not exist)."""

    stream: str
    expected_version: int
    events: Sequence[EventData]


@dataclass(frozen=True, slots=True)
class Appended:
    """Version and position of the last event of an `Append`."""

    version: int
    position: Position


AppendResult = Appended | VersionConflict | DuplicateEventId | EsError


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """A follower has seen everything that was committed when it looked; `position` is how far that is."""

    position: Position


class EventStore(Protocol):
    """Append-only streams with one commit order over all of them.

    Any method raises `PartUnavailable` when the store can't be reached or used, and then the outcome
    of an append is unknown: repeat it with the same event ids until the answer is definite.
    """

    def append(self, batch: Sequence[Append]) -> list[AppendResult]:
        """Store a batch, durably, and answer item by item in order.

        An item is stored whole or not at all. An item's failure doesn't touch its neighbours. Items are
        applied in order: a later item of the same stream sees the earlier. Nothing is appended at another
        version than the expected one. Repeating an item with the same event ids at the same expected
        version answers as the first time and stores nothing. When this returns, every `Appended` item
        survives a power cut. An event id that the store holds elsewhere, or that an item holds twice, yields
        `DuplicateEventId`; a store that keeps ids per stream (EventStoreDB) sees this within the stream
        only. An item without events, or with an expected version below -1, raises ValueError.
        """
        ...

    def read_stream(
        self, stream: str, from_version: int = 0, *, backwards: bool = False, limit: int | None = None
    ) -> Iterator[Recorded]:
        """The events of one stream in version order; backwards: from the last down to `from_version`.

        A stream that does not exist yields nothing.
        """
        ...

    def read_all(
        self, after: Position, limit: int, *, prefixes: Sequence[str] | None = None
    ) -> Iterator[Recorded]:
        """At most `limit` events with a position greater than `after`, in commit order.

        Never skips an event that was, or later becomes, committed before one that it yields. With
        `prefixes`, only streams whose name starts with one of them.
        """
        ...

    def follow(
        self, after: Position, *, stopped: Callable[[], bool], prefixes: Sequence[str] | None = None
    ) -> Iterator[Recorded | CaughtUp]:
        """Every event after `after` as by `read_all`, then live, with a `CaughtUp` each time it has drained.

        Ends only when `stopped()` is true (looked at between events and at least every 0.2 s), or by raising.
        While idle it yields `CaughtUp` again at least every 0.2 s, so that its consumer can do timed work.
        Raises `StoreBehind` when the store ends before `after`.
        """
        ...

    def head(self) -> Position:
        """The position of the last committed event; 0 when there is none."""
        ...

    def streams(self, *, after: str = "", prefix: str = "", limit: int = 100) -> list[tuple[str, int]]:
        """Names greater than `after` that start with `prefix`, in order of name, each with its last version."""
        ...

    def close(self) -> None:
        """Release what is held. Safe to call twice."""
        ...
