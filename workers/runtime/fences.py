"""Fences: events that keep a late append of an abandoned reservation out of a stream.

Promise: what needs a fence keeps its verdict only if the fence is stored at the exact version. Refusal: it releases nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from domain.kernel.errors import EsError, Kind, VersionConflict
from domain.kernel.events import EventData
from domain.kernel.ports.event_store import Append, EventStore

K = TypeVar("K")


class Fenced(Protocol):
    """What the stream at `version` decides, once the fences are stored."""

    @property
    def version(self) -> int: ...
    @property
    def fences(self) -> Sequence[EventData]: ...


V = TypeVar("V", bound=Fenced)


def append_fences(
    store: EventStore, verdicts: dict[K, V], stream_of: Callable[[K], str], errors: list[EsError]
) -> list[K]:
    """Append the fences. Without its fence a verdict is dropped; those that met a conflict are returned."""
    fenced = {key: verdict for key, verdict in verdicts.items() if verdict.fences}
    appends = [Append(stream_of(key), verdict.version, verdict.fences) for key, verdict in fenced.items()]
    conflicts: list[K] = []
    for key, result in zip(fenced, store.append(appends) if appends else (), strict=True):
        if isinstance(result, EsError):
            del verdicts[key]
            if isinstance(result, VersionConflict):
                conflicts.append(key)
            else:
                errors.append(result)
    return conflicts


def raise_first(errors: Sequence[EsError]) -> None:
    """Raise the first error, an outage before damage."""
    if errors:
        raise min(errors, key=lambda error: error.kind is Kind.DAMAGED)
