"""The event store: append-only streams in one commit order.

Each docstring is a contract, and `tests/contract` tests every sentence over every adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from domain.kernel.errors import Damaged, DuplicateEventId, EsError, VersionConflict
from domain.kernel.events import EventData, Position, Recorded
from domain.kernel.history import Fit, Mark
from domain.kernel.ports.identity import Identified


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
    """The follower has yielded every event up to `position`, the head when it last asked the store.

    `event_id` is that of the event at `position`; None in an empty store.
    """

    position: Position
    event_id: UUID | None


class EventStore(Identified, Protocol):
    """Append-only streams with one commit order over all of them.

    Any method raises `PartUnavailable` if the store cannot be reached or used. The outcome of an append is then
    unknown: retry it with the same event ids until its result is definite.
    """

    @property
    def is_remote(self) -> bool:
        """Whether a call waits for another process, so that a read costs far more than to remember what it returned."""
        ...

    def append(self, batch: Sequence[Append]) -> list[AppendResult]:
        """Append a batch durably and return one result for each item, in order.

        All events of an item are stored, or none. A failed item does not affect the others. Items are applied in
        order: a later item sees the events of an earlier one in the same stream. Nothing is appended at another
        version than the expected one. A retry with the same event ids and the same expected version returns the
        first result and stores nothing. Once this returns, every `Appended` item survives a power cut. An event
        id that the store holds elsewhere, or that an item has twice, yields `DuplicateEventId`; EventStoreDB
        notices it within the stream only. An item without events, or with an expected version below -1, raises
        ValueError.
        """
        ...

    def read_stream(
        self, stream: str, from_version: int = 0, *, backwards: bool = False, limit: int | None = None
    ) -> Iterator[Recorded]:
        """The events of a stream in order of version; backwards from the last one down to `from_version`.

        A missing stream yields nothing.
        """
        ...

    def read_streams(
        self, streams: Sequence[str], *, first: Mapping[str, int] | None = None
    ) -> Mapping[str, Sequence[Recorded] | Damaged]:
        """Streams, each as by `read_stream`, by name: in one wait for the store, however many they are.

        A stream that `first` names is read from that version on, the others are read whole. A missing stream has no
        events. A damaged one has its damage, and does not affect the others.
        """
        ...

    def read_all(
        self, after: Position, limit: int, *, prefixes: Sequence[str] | None = None
    ) -> Iterator[Recorded]:
        """At most `limit` events with a position greater than `after`, in commit order. `after` is any number.

        It never skips an event that is committed before one that it yields, not even if that commit is still
        running. With `prefixes` it yields only streams whose name starts with one of them.
        """
        ...

    def follow(
        self,
        after: Position,
        *,
        stopped: Callable[[], bool],
        prefixes: Sequence[str] | None = None,
        types: Sequence[str] | None = None,
    ) -> Iterator[Recorded | CaughtUp]:
        """Every event after `after` as by `read_all`, then new events, with a `CaughtUp` at each head.

        It ends only if `stopped()` is true, which it checks between events and at least every 0.2 s, or with an
        error. While idle it yields `CaughtUp` at least every 0.2 s, so that its consumer can do timed work.
        With `types` it yields only events whose type starts with one of them.
        Raises `StoreBehind` if the store ends before `after`. `after` is any number.
        """
        ...

    def head(self) -> Position:
        """The position of the last committed event; 0 in an empty store."""
        ...

    def fit(self, mark: Mark) -> Fit:
        """What the store holds at the position of a mark. It reads one event, not all before it."""
        ...

    def close(self) -> None:
        """Release all resources. A second call does nothing."""
        ...
