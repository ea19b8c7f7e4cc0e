"""Assign drawn ids to what commands create.

Promise: a command id creates one instance, for ever, wherever a worker crashed in between. Its id is stored in a stream of the
command before anything is stored in the stream of the instance, so a repeat reads it. A batch waits once for its appends.
Refusal: an id that is not stored is given to no command. It is drawn and lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from domain.kernel.errors import Damaged, EsError, VersionConflict
from domain.kernel.events import NO_STREAM, Metadata, Recorded, event_id
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import Append, Appended, EventStore
from domain.kernel.system import IdAssigned, assignment_stream


@dataclass(frozen=True, slots=True)
class Assigned:
    """The id of the instance that a command creates. `is_new` says that nothing is stored in its stream yet."""

    id: int
    is_new: bool


class AssignedIds:
    def __init__(self, *, store: EventStore, codec: Codec, take_ids: Callable[[int], Sequence[int]]) -> None:
        """`take_ids(n)` draws n new ids, or raises `EsError`."""
        self._store = store
        self._codec = codec
        self._take_ids = take_ids

    def of(self, wanted: Sequence[tuple[str, Metadata]]) -> list[Assigned | EsError]:
        """The id for each pair of an aggregate's name and a command, in order. Raises `PartUnavailable` of the store."""
        if not wanted:
            return []
        commands = {assignment_stream(name, metadata.command_id): metadata for name, metadata in wanted}
        try:
            ids = self._take_ids(len(commands))
        except EsError as error:
            # A repeat needs no new id.
            found = self._stored(commands, missing=error)
        else:
            found = self._append(commands, ids)
        return [found[assignment_stream(name, metadata.command_id)] for name, metadata in wanted]

    def _append(self, commands: Mapping[str, Metadata], ids: Sequence[int]) -> dict[str, Assigned | EsError]:
        appends = [
            self._assignment(stream, metadata, id_)
            for (stream, metadata), id_ in zip(commands.items(), ids, strict=True)
        ]
        found: dict[str, Assigned | EsError] = {}
        repeated: list[str] = []
        for stream, id_, result in zip(commands, ids, self._store.append(appends), strict=True):
            if isinstance(result, Appended):
                found[stream] = Assigned(id_, is_new=True)
            elif isinstance(result, VersionConflict):
                repeated.append(stream)
                conflict = result
            else:
                found[stream] = result
        return found | self._stored(repeated, missing=conflict) if repeated else found

    def _assignment(self, stream: str, metadata: Metadata, id_: int) -> Append:
        # The event id depends on the drawn id: a store takes an event with the same id for the first one.
        event = self._codec.encode(
            IdAssigned(id_),
            event_id=event_id(metadata.command_id, -id_),
            subject=None,
            metadata=metadata,
            sealer=None,
        )
        return Append(stream, NO_STREAM, [event])

    def _stored(self, streams: Collection[str], *, missing: EsError) -> dict[str, Assigned | EsError]:
        """The ids that were assigned before; `missing` for a command without one."""
        histories = self._store.read_streams([*streams])
        return {stream: self._first(histories.get(stream, ()), missing) for stream in streams}

    def _first(self, history: Sequence[Recorded] | Damaged, missing: EsError) -> Assigned | EsError:
        if isinstance(history, Damaged):
            return history
        if not history:
            return missing
        try:
            event = self._codec.decode(history[0])
        except EsError as error:
            return error
        if not isinstance(event, IdAssigned) or type(event.id) is not int:
            return Damaged("event store", f"event 0 of {history[0].stream} assigns no id")
        return Assigned(event.id, is_new=False)
