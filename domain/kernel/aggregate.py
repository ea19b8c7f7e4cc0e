"""An aggregate: one kind of stream, with its events, its commands, and the two pure verbs on its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from domain.kernel.commands import Command
from domain.kernel.errors import EsError, InvalidInput
from domain.kernel.events import Event
from domain.kernel.ids import parse_id

S = TypeVar("S")
C = TypeVar("C")

Upcaster = Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]
"""From the data of an older version of an event to (newer wire name, newer data)."""


@dataclass(frozen=True, kw_only=True)
class Aggregate(Generic[S, C]):
    """What there is to know of an aggregate. Its instances are the streams `<name>-<id>`.

    `evolve` is total: an event that does not concern the state leaves it as it is. `decide` answers with events,
    with none when the state is as the command wants it, or with an error.
    """

    name: str
    initial: S
    evolve: Callable[[S, Event], S]
    decide: Callable[[S, C], Sequence[Event] | EsError]
    events: tuple[type[Event], ...] = ()
    commands: tuple[type[Command], ...] = ()
    upcasters: Mapping[str, Upcaster] = field(default_factory=dict)
    """By the wire name of the older version."""

    @property
    def prefix(self) -> str:
        """What the names of its streams start with."""
        return f"{self.name}-"

    @property
    def id_field(self) -> str:
        """The name of its id in commands, rows and answers."""
        return f"{self.name}_id"

    def stream_of(self, id_: int) -> str:
        return f"{self.prefix}{id_}"

    def id_of(self, stream: str) -> int:
        """The inverse of `stream_of`. Raises InvalidInput for a stream of another aggregate."""
        if not stream.startswith(self.prefix):
            raise InvalidInput("stream", f"is not a stream of the aggregate {self.name}")
        return parse_id(stream.removeprefix(self.prefix), field="stream")
