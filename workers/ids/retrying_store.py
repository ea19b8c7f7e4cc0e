"""The event store behind retries: a read returns data, an append returns its definite outcome.

Promise: an append without an answer is retried with the same bytes until its outcome is known. Ownership is
decided by reading the event back. Refusal: nothing is decided here, and a conflict is never retried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from domain.kernel.errors import DuplicateEventId, EsError, PartUnavailable, VersionConflict
from domain.kernel.events import NO_STREAM, Event, EventData, Metadata, Recorded
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import Append, Appended, AppendResult, EventStore
from domain.lanes import fences
from domain.lanes.errors import StoreWentBack

TRIES = 5
"""How often a call to the store is tried while a caller waits."""
CONFLICTS_MAX = 20
"""How many version conflicts in a row are followed by a new decision."""
_BACKOFF_S = (0.05, 10.0)  # the first and the longest

Answer = TypeVar("Answer")
Item = tuple[str, int, Sequence[Event]]
"""A stream, its expected version and the events to append."""


@dataclass(frozen=True, slots=True)
class Base:
    """The event that an append was decided on. A restored store may hold another event at its version."""

    stream: str
    version: int
    event_id: UUID


@dataclass(slots=True)
class Attempt:
    """Appends with fixed bytes, so that they can be retried until their outcome is known."""

    appends: list[Append]
    base: Base | None = None  # verified before each try
    is_unknown: bool = False  # a try got no answer: the events may be stored


class RetryingStore:
    """`random_below(n)` jitters the back-off, `new_token` makes event ids."""

    def __init__(
        self,
        store: EventStore,
        codec: Codec,
        *,
        new_token: Callable[[], UUID],
        random_below: Callable[[int], int],
        sleep: Callable[[float], None],
    ) -> None:
        self._store = store
        self._codec = codec
        self._new_token = new_token
        self._random_below = random_below
        self._sleep = sleep

    # --- appending ---------------------------------------------------------------------------

    def attempt(self, items: Sequence[Item], command: str, base: Base | None = None) -> Attempt:
        """Encode appends, once.

        Event ids are random: ids derived from stream and version would make the store acknowledge the same
        version to two workers.
        """
        command_id = self._new_token()
        metadata = Metadata(command_id, command, command_id, command_id, "process:ids")
        appends = [
            Append(stream, version, [self.encode(event, self._new_token(), metadata) for event in events])
            for stream, version, events in items
        ]
        return Attempt(appends, base)

    def encode(self, event: Event, id_: UUID, metadata: Metadata) -> EventData:
        return self._codec.encode(event, event_id=id_, subject=None, metadata=metadata, sealer=None)

    def settle(self, attempt: Attempt, *, tries: int = TRIES) -> list[int | None]:
        """Append until the outcome is known: for each item the version of its last event, or None after a conflict.

        Raises `PartUnavailable` if it stays unknown; the same attempt can then be settled later. Raises
        `StoreWentBack`.
        """

        def send() -> list[AppendResult]:
            self.check_base(attempt)
            # Set before the call: without an answer the events may be stored.
            before, attempt.is_unknown = attempt.is_unknown, True
            results = self._store.append(attempt.appends)
            for result in results:
                if isinstance(result, EsError) and not isinstance(result, VersionConflict | DuplicateEventId):
                    raise result
            attempt.is_unknown = before
            return results

        results = self._with_retries(send, tries)
        pairs = zip(attempt.appends, results, strict=True)
        return [self._outcome(append, result, attempt.is_unknown) for append, result in pairs]

    def check_base(self, attempt: Attempt) -> None:
        """Raise `StoreWentBack` unless the attempt's base is in the store: equal versions can hold other events."""
        base = attempt.base
        if base is None:
            return
        recorded = self.read(base.stream, base.version, limit=1, tries=1)
        if not recorded or recorded[0].event_id != base.event_id:
            actual = recorded[0].version - 1 if recorded else NO_STREAM
            raise StoreWentBack(base.stream, base.version, actual)

    def _outcome(self, append: Append, result: AppendResult, was_unknown: bool) -> int | None:
        last = append.expected_version + len(append.events)
        match result:
            case Appended(version=version) if not fences.numbering_is_whole(version, last):
                return None
            case Appended():
                return last if not was_unknown or self.is_ours(append, last) else None
            case VersionConflict(actual=actual) if fences.went_back(append.expected_version, actual):
                raise StoreWentBack(append.stream, append.expected_version, actual)
            case VersionConflict() if was_unknown and self.is_ours(append, last):
                return last
        return None

    def is_ours(self, append: Append, version: int) -> bool:
        """Whether the event at that version is the append's last: its id and its data, which names the owner."""
        ours = append.events[-1]
        recorded = self.read(append.stream, version, limit=1)
        return bool(recorded) and (recorded[0].event_id, recorded[0].data) == (ours.event_id, ours.data)

    # --- reading -----------------------------------------------------------------------------

    def read(
        self, stream: str, from_version: int = 0, *, limit: int | None = None, tries: int = TRIES
    ) -> list[Recorded]:
        return self._with_retries(
            lambda: list(self._store.read_stream(stream, from_version, limit=limit)), tries
        )

    def read_tail(self, stream: str, limit: int) -> list[Recorded]:
        """The last events of a stream, oldest first."""
        return self._with_retries(
            lambda: list(self._store.read_stream(stream, backwards=True, limit=limit))[::-1], TRIES
        )

    def decode(self, recorded: Recorded) -> Event:
        return self._codec.decode(recorded)

    # --- retries -----------------------------------------------------------------------------

    def _with_retries(self, call: Callable[[], Answer], tries: int) -> Answer:
        """Call until the store is available, with back-off; the last try's error is raised."""
        for failures in range(1, tries):
            try:
                return call()
            except PartUnavailable:
                self._sleep(self.backoff_s(failures))
        return call()

    def backoff_s(self, failures: int) -> float:
        """How long to wait after so many failures in a row: exponential, jittered, at most 10 s."""
        shortest_s, longest_s = _BACKOFF_S
        full_s: float = min(shortest_s * 2 ** min(failures, 16), longest_s)
        return full_s * (500 + self._random_below(501)) / 1000
