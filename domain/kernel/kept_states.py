"""The states of long streams, kept between batches, so that a batch reads only what is new in its stream.

Promise: what is kept of a stream is true of its events up to one version for ever, because stored events never change.
The handler reads the stream from that version on, and thereby learns whether it is the same stream still and what
followed. The memory is bounded. Refusal: no readable personal data stay in memory. A state is sealed with the data key
of its person, and opened with the keys of each batch: once the key is destroyed, it is gone. A state with the data of
several persons is not kept.
"""

from __future__ import annotations

import pickle
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic
from uuid import UUID

from domain.kernel.aggregate import Aggregate, C, S
from domain.kernel.errors import EsError
from domain.kernel.events import BEGINNING, NO_STREAM, Position, personal_fields
from domain.kernel.personal import Personal, Sealed, subject_fields
from domain.kernel.ports.codec import Keyring

LONG = 64
"""The number of events from which on a state is kept. Reading a shorter stream costs about as much as opening it."""
COMMANDS_LIMIT = 500_000
"""The number of command ids of all kept streams together. Each takes 130 to 180 bytes."""
_STATE_LIMIT_BYTES = 48_000
"""The size of a state that can be sealed as one value."""
_FIELD = "state"


@dataclass(slots=True, eq=False)
class Known(Generic[S]):
    """What is known of a stream up to `version`."""

    state: S
    commands: dict[int, int]
    """The version of each command's last event, by the number of the command id."""
    version: int = NO_STREAM
    position: Position = BEGINNING
    event_id: UUID | None = None
    """That of the event at `version`."""
    subjects: frozenset[int] = frozenset()
    """The persons that the events name by an `Of`."""


@dataclass(slots=True)
class _Kept:
    known: Known[Sealed | bytes]
    count: int
    """The number of its commands when it was counted: the mapping grows."""
    person: int | None
    """The person for whom the state is sealed. None: it holds no personal data."""


class KeptStates(Generic[S, C]):
    """The states of the most recently used long streams of one aggregate. For one thread at a time."""

    def __init__(self, aggregate: Aggregate[S, C], *, limit: int = COMMANDS_LIMIT, long: int = LONG) -> None:
        self._is_of_owner = not aggregate.events or any(
            {*personal_fields(event)} - subject_fields(event).keys() for event in aggregate.events
        )
        """Whether its states can hold data of the person whose stream it is."""
        self._limit = limit
        self._long = long
        self._streams: OrderedDict[str, _Kept] = OrderedDict()
        self._count = 0

    def people(self, streams: Iterable[str]) -> list[int]:
        """The persons whose keys open what is known of these streams."""
        kept = map(self._streams.get, streams)
        return [each.person for each in kept if each is not None and each.person is not None]

    def opened(self, stream: str, keyring: Keyring) -> Known[S] | None:
        """What is known of a stream; None if nothing is, or if the key of its person does not open it."""
        kept = self._streams.get(stream)
        if kept is None:
            return None
        known = kept.known
        try:
            raw = _open(kept, keyring)
        except EsError:
            raw = None  # the events say what is wrong with the key
        if raw is None:
            self.forget(stream)
            return None
        self._streams.move_to_end(stream)
        state: S = pickle.loads(raw)  # noqa: S301  # this process pickled it
        return Known(state, known.commands, known.version, known.position, known.event_id, known.subjects)

    def is_long(self, version: int) -> bool:
        """Whether a stream whose last event has this version is worth keeping."""
        return version + 1 >= self._long

    def keep(self, stream: str, owner: int | None, known: Known[S] | None, keyring: Keyring) -> None:
        """Keep what is known of a stream instead of what was known before. `owner` is the person whose stream it is."""
        self.forget(stream)
        if known is None or known.event_id is None:
            return
        people = {*known.subjects, owner} if self._is_of_owner else known.subjects
        if len(people) > 1 or None in people:
            return  # one value is sealed for one person
        person = next(iter(people), None)
        try:
            sealed = _seal(known.state, known.event_id, person, keyring)
        except (EsError, pickle.PicklingError, TypeError, AttributeError):
            return  # without a living key, or a state that cannot be copied: the stream is read again
        if sealed is None:
            return
        count = len(known.commands)
        self._streams[stream] = _Kept(
            Known(sealed, known.commands, known.version, known.position, known.event_id, known.subjects),
            count,
            person,
        )
        self._count += count
        while self._count > self._limit:
            self.forget(next(iter(self._streams)))

    def forget(self, stream: str) -> None:
        """Keep nothing of a stream."""
        kept = self._streams.pop(stream, None)
        if kept is not None:
            self._count -= kept.count


def _seal(state: object, event_id: UUID, person: int | None, keyring: Keyring) -> Sealed | bytes | None:
    raw = pickle.dumps(state, pickle.HIGHEST_PROTOCOL)
    if len(raw) > _STATE_LIMIT_BYTES:
        return None
    if person is None:
        return raw
    text = Personal(b64encode(raw).decode())
    return keyring.seal(text, subject=person, field=_FIELD, event_id=event_id)


def _open(kept: _Kept, keyring: Keyring) -> bytes | None:
    known = kept.known
    if isinstance(known.state, bytes) or kept.person is None:
        return known.state if isinstance(known.state, bytes) else None
    opened = keyring.open(known.state, subject=kept.person, field=_FIELD, event_id=known.event_id)
    return b64decode(opened.value) if isinstance(opened, Personal) else None
