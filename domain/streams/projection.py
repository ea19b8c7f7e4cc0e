"""The `streams` projection: a row for each stream in the store.

Promise: every event of every stream counts, also of unknown types. Refusal: it looks at no event's data, so no personal
value can enter a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from domain.kernel.events import Event, Recorded
from domain.kernel.projection import Operation, Projection, Put, Row


class Streams(Projection):
    """A row for each stream, with the version of its last event, as `es streams list` shows it."""

    name: ClassVar[str] = "streams"
    prefixes: ClassVar[Sequence[str] | None] = None
    decodes: ClassVar[bool] = False
    key: ClassVar[str] = "stream"
    key_type: ClassVar[str] = "TEXT"
    columns: ClassVar[Mapping[str, str]] = {"version": "INTEGER"}

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        return (Put(recorded.stream, {"version": recorded.version}),)


STREAMS = Streams()
