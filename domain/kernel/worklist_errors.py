"""Errors of the worklist that more than one adapter raises."""

from __future__ import annotations

from domain.kernel.errors import PartUnavailable
from domain.kernel.events import Position


def checkpoint_moved(process: str, position: Position, expected: Position) -> PartUnavailable:
    """The checkpoint of a process is not where its manager left it."""
    return PartUnavailable(
        "read models",
        f"their checkpoint of the process {process} is at {position}, not at {expected}",
        "Another manager moved it, or an older copy was restored. The manager goes on from the checkpoint.",
    )
