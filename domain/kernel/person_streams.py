"""The index from persons to streams: in which streams of other aggregates data of a person is.

Each aggregate whose events name persons has a part of its own, and each process that takes note of events with personal
data, because its stream holds copies of them. So a part is complete from the first event on, whenever its feature comes.
Promise: every event that names a person by an `Of` counts. Refusal: it holds ids and names of streams only. Without such an
aggregate or process there is no index.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from domain.kernel.aggregate import Aggregate
from domain.kernel.events import Event, Recorded, personal_fields, subjects_of
from domain.kernel.personal import subject_fields
from domain.kernel.process import PREFIX, Process
from domain.kernel.process_events import ProcessNoted
from domain.kernel.projection import Operation, Projection, Put, Row
from domain.kernel.subjects import names_people

NAME = "person_streams_"
"""The names of all parts begin so."""


class PersonStreams(Projection):
    """A row for each person and stream, with the version of the last event that names the person."""

    key: ClassVar[str] = "person_stream"
    key_type: ClassVar[str] = "TEXT"
    columns: ClassVar[Mapping[str, str]] = {"version": "INTEGER"}

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        people = self.people(event)
        if not all(type(person) is int for person in people):
            raise TypeError("the id of a person is a whole number")
        return [Put(key_of(person, recorded.stream), {"version": recorded.version}) for person in people]

    def people(self, event: Event) -> Collection[int]:
        """The persons whose data the event holds. Raises as `apply`."""
        return subjects_of(event)


def key_of(person: int, stream: str) -> str:
    """The key of a row. All rows of a person begin with `key_of(person, "")`."""
    return f"{person}:{stream}"


def stream_of(key: str) -> str:
    """The stream in the key of a row."""
    return key.partition(":")[2]


def person_streams(
    aggregates: Sequence[Aggregate[Any, Any]], processes: Iterable[Process[Any]] = ()
) -> tuple[Projection, ...]:
    """The index: a part for each of these aggregates and processes whose events are about persons."""
    about = {
        event.type.rpartition(".v")[0]: (aggregate, tuple(subject_fields(event).values()))
        for aggregate in aggregates
        for event in aggregate.events
        if personal_fields(event)
    }
    noting = [p for p in processes if about.keys() & {name.rpartition(".v")[0] for name in p.types}]
    return (
        *(_part(aggregate) for aggregate in aggregates if names_people(aggregate)),
        *(_part_of_process(process, about) for process in noting),
    )


def _part(aggregate: Aggregate[Any, Any]) -> Projection:
    class Part(PersonStreams):
        name: ClassVar[str] = NAME + aggregate.name.replace("-", "_")
        prefixes: ClassVar[Sequence[str] | None] = (aggregate.prefix,)

    return Part()


_About = Mapping[str, tuple[Aggregate[Any, Any], tuple[str, ...]]]
"""By the wire name of an event without its version: its aggregate, and the fields with the persons that it names."""


def _part_of_process(process: Process[Any], about: _About) -> Projection:
    class Part(PersonStreams):
        # No aggregate has a name that begins with a hyphen.
        name: ClassVar[str] = f"{NAME}_{process.name.replace('-', '_')}"
        prefixes: ClassVar[Sequence[str] | None] = (f"{PREFIX}{process.name}-",)

        def people(self, event: Event) -> Collection[int]:
            return _noted_people(event, about) if isinstance(event, ProcessNoted) else set()

    return Part()


def _noted_people(event: ProcessNoted, about: _About) -> set[int]:
    """The persons whose data a noted event holds. It may be of an older version, which names them alike."""
    found = about.get(event.noted.rpartition(".v")[0])
    if found is None:
        return set()
    aggregate, names = found
    data = json.loads(event.data)
    named = {data[name] for name in names if name in data}
    return named | {aggregate.id_of(event.stream)} if aggregate.is_person else named
