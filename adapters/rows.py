"""Translated events as bytes, from the process that translates them to the one that stores them.

Both run the same code: these bytes are never stored.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

import msgspec

from domain.kernel.history import Mark
from domain.kernel.projection import Delete, Merged, Put, Shape, Update


class Translated(NamedTuple):
    """A batch of events as rows."""

    events: int
    """Their number."""
    last: Mark
    rows: Merged


_KINDS = {kind.__name__: kind for kind in (Put, Update, Delete)}
_Wire = tuple[
    int, int, UUID, list[tuple[str, tuple[str, ...], tuple[str, ...], list[tuple[str | int | None, ...]]]]
]
_decoded = msgspec.msgpack.Decoder(_Wire).decode


def to_bytes(batch: Translated) -> bytes:
    """Raises ValueError for a text that is no Unicode, and OverflowError for a number beyond 64 bits: no read model stores it."""
    shapes = [(shape.kind.__name__, shape.columns, shape.added, rows) for shape, rows in batch.rows.items()]
    return msgspec.msgpack.encode((batch.events, batch.last.position, batch.last.event_id, shapes))


def from_bytes(raw: bytearray) -> Translated:
    events, position, event_id, shapes = _decoded(raw)
    rows = Merged({Shape(_KINDS[kind], columns, added): rows for kind, columns, added, rows in shapes})
    return Translated(events, Mark(position, event_id), rows)
