"""The event store as the `ids` worker needs it: appends whose outcome is known, and calls that are repeated.

Promise: what was sent and not answered is sent again, the same bytes, until the answer is definite; whose an
event is, is told by what the store holds. Refusal: nothing is decided here, and no command is repeated anew.
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
from domain.lanes import grants, layout
from domain.lanes.errors import StoreWentBack
from domain.lanes.grants import Known

TRIES = 5
"""Of a call to the store that somebody waits for."""
_BACKOFF_S = (0.05, 10.0)  # first and longest pause between tries

Answer = TypeVar("Answer")
Item = tuple[str, int, Sequence[Event]]
"""A stream, the version it has to be at, and what is appended."""


@dataclass(frozen=True, slots=True)
class Base:
    """The event after which an append was decided. A restored store may have another one there."""

    stream: str
    version: int
    event_id: UUID


@dataclass(slots=True)
class Attempt:
    """Appends whose bytes never change, so that they can be repeated until the answer is definite."""

    appends: list[Append]
    base: Base | None = None  # looked at before anything is sent
    unsure: bool = False  # an answer was lost: what was appended may be in the store


class SureStore:
    def __init__(
        self,
        store: EventStore,
        codec: Codec,
        *,
        new_token: Callable[[], UUID],
        draw: Callable[[int], int],
        sleep: Callable[[float], None],
    ) -> None:
        self._store = store
        self._codec = codec
        self._new_token = new_token
        self._draw = draw
        self._sleep = sleep

    # --- appending ---------------------------------------------------------------------------

    def attempt(self, items: Sequence[Item], command: str, base: Base | None = None) -> Attempt:
        """Encode once. Event ids are random, so that the store can tell two owners of one version apart."""
        command_id = self._new_token()
        metadata = Metadata(command_id, command, command_id, command_id, "process:ids")

        def encoded(stream: str, version: int, event: Event) -> EventData:
            return self.encode(event, _grant_event_id(self._new_token, stream, version), metadata)

        return Attempt(
            [
                Append(stream, version, [encoded(stream, version + n, e) for n, e in enumerate(events, 1)])
                for stream, version, events in items
            ],
            base,
        )

    def encode(self, event: Event, id_: UUID, metadata: Metadata) -> EventData:
        return self._codec.encode(event, event_id=id_, subject=None, metadata=metadata, sealer=None)

    def settle(self, attempt: Attempt, *, tries: int = TRIES) -> list[int | None]:
        """Append until the answer is definite: per item the version of its last event, or None if others won.

        Raises `PartUnavailable` when it never became definite, and `StoreWentBack`.
        """

        def send() -> list[AppendResult]:
            self._check_base(attempt)
            # Until proven otherwise the answer is lost and the events may be stored.
            before, attempt.unsure = attempt.unsure, True
            results = self._store.append(attempt.appends)
            for result in results:
                if isinstance(result, EsError) and not isinstance(result, VersionConflict | DuplicateEventId):
                    raise result
            attempt.unsure = before
            return results

        results = self._patiently(send, tries)
        pairs = zip(attempt.appends, results, strict=True)
        return [self._outcome(append, result, attempt.unsure) for append, result in pairs]

    def _check_base(self, attempt: Attempt) -> None:
        """The same version is not always the same history: in a restored store it may have grown anew."""
        base = attempt.base
        if base is None:
            return
        recorded = self.read(base.stream, base.version, limit=1, tries=1)
        if not recorded or recorded[0].event_id != base.event_id:
            actual = recorded[0].version - 1 if recorded else NO_STREAM
            raise StoreWentBack(base.stream, base.version, actual)

    def _outcome(self, append: Append, result: AppendResult, unsure: bool) -> int | None:
        last = append.expected_version + len(append.events)
        match result:
            case Appended(version=version) if not grants.numbering_is_whole(version, last):
                return None
            case Appended():
                return last if not unsure or self._is_ours(append, last) else None
            case VersionConflict(actual=actual) if grants.went_back(
                Known(append.expected_version, 0), actual
            ):
                raise StoreWentBack(append.stream, append.expected_version, actual)
            case VersionConflict() if unsure and self._is_ours(append, last):
                return last
        return None

    def _is_ours(self, append: Append, version: int) -> bool:
        """After a lost answer: what the store holds at that version, owner and all, tells whose it is."""
        ours = append.events[-1]
        recorded = self.read(append.stream, version, limit=1)
        return bool(recorded) and (recorded[0].event_id, recorded[0].data) == (ours.event_id, ours.data)

    # --- reading -----------------------------------------------------------------------------

    def read(
        self,
        stream: str,
        from_version: int = 0,
        *,
        backwards: bool = False,
        limit: int | None = None,
        tries: int = TRIES,
    ) -> list[Recorded]:
        return self._patiently(
            lambda: list(self._store.read_stream(stream, from_version, backwards=backwards, limit=limit)),
            tries,
        )

    def tail(self, stream: str) -> list[Recorded]:
        """The last events of a lane, oldest first: as many as tell its state."""
        return self.read(stream, backwards=True, limit=layout.TAIL)[::-1]

    def decode(self, recorded: Recorded) -> Event:
        return self._codec.decode(recorded)

    # --- patience ----------------------------------------------------------------------------

    def _patiently(self, call: Callable[[], Answer], tries: int) -> Answer:
        """Repeat a call to a store that is away, with growing, jittered pauses; the last failure is raised."""
        for failures in range(1, tries):
            try:
                return call()
            except PartUnavailable:
                self._sleep(self.pause_s(failures))
        return call()

    def pause_s(self, failures: int) -> float:
        """How long to leave the store alone after so many failures in a row."""
        shortest_s, longest_s = _BACKOFF_S
        full_s: float = min(shortest_s * 2 ** min(failures, 16), longest_s)
        return full_s * (500 + self._draw(501)) / 1000


def _grant_event_id(new_token: Callable[[], UUID], stream: str, version: int) -> UUID:
    """Random. Derived from stream and version it would make the store acknowledge two owners of one grant."""
    return new_token()
