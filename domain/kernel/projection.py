"""Projections: from events to rows, purely. Personal fields pass through sealed; nothing is opened here.

`apply(recorded, event)` says what changes; who stores rows, checkpoints and generations is somebody
else's business, so rebuilding is the same code as living.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from domain.kernel.events import Event, Recorded

Value = str | int | None


@dataclass(frozen=True, slots=True)
class Put:
    """Insert a whole row, or replace it. `row` has every column but the key."""

    key: int
    row: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Change:
    """Set some columns of a row. Without such a row nothing happens."""

    key: int
    columns: Mapping[str, Value]


Operation = Put | Change


class Projection(Protocol):
    """`columns` maps each column to its SQL type; the key is a whole number of its own name."""

    name: ClassVar[str]
    prefixes: ClassVar[Sequence[str]]
    key: ClassVar[str]
    columns: ClassVar[Mapping[str, str]]

    def apply(self, recorded: Recorded, event: Event) -> Sequence[Operation]: ...
