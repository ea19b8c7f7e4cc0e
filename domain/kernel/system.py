"""The event that carries the system id in a store without tables of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from domain.kernel.events import Event

SYSTEM_STREAM = "system"


@dataclass(frozen=True, slots=True)
class SystemClaimed(Event):
    """The store belongs to the system `system_id` (a UUID) from here on. The last one counts."""

    system_id: str
    type: ClassVar[str] = "system-claimed.v1"


EVENTS: tuple[type[Event], ...] = (SystemClaimed,)
