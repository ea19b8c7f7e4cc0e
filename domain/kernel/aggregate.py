"""An aggregate: a kind of stream, its events and commands, and the pure functions `evolve` and `decide`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from domain.kernel.commands import Command
from domain.kernel.errors import EsError, InvalidInput
from domain.kernel.events import Event
from domain.kernel.ids import parse_id
from domain.kernel.unique import Unique

S = TypeVar("S")
C = TypeVar("C")

Upcaster = Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]
"""Turns the data of an older event version into the next version: (its wire name, its data).

A personal field keeps its name, because its value is sealed for that name. The field that its `Of` names keeps its value.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Aggregate(Generic[S, C]):
    """Everything about one aggregate. Its instances are the streams `<name>-<id>`.

    `evolve` returns the next state and accepts every event. `decide` returns the events of a command, none if
    nothing has to change, or the error that refuses it.
    """

    name: str
    initial: S
    evolve: Callable[[S, Event], S]
    decide: Callable[[S, C], Sequence[Event] | EsError]
    events: tuple[type[Event], ...] = ()
    commands: tuple[type[Command], ...] = ()
    upcasters: Mapping[str, Upcaster] = field(default_factory=dict)
    """Upcasters by the wire name of the older version."""
    unfolded: tuple[type[Event], ...] = ()
    """Events that change no state, so `evolve` returns the same state for them. The registry refuses others of that kind."""
    is_person: bool = False
    """Whether its instances are persons, so that their streams hold their own personal data. Only users are."""
    unique: tuple[Unique, ...] = ()
    """Values that no two open instances share. The generic service of commands sees to it."""

    @cached_property
    def prefix(self) -> str:
        """The prefix of its stream names."""
        return f"{self.name}-"

    @cached_property
    def id_field(self) -> str:
        """The name of its id in commands, rows and replies."""
        return f"{self.name.replace('-', '_')}_id"

    def stream_of(self, id_: int) -> str:
        return f"{self.prefix}{id_}"

    def id_of(self, stream: str) -> int:
        """The inverse of `stream_of`. Raises InvalidInput for a stream of another aggregate."""
        prefix = self.prefix
        if not stream.startswith(prefix):
            raise InvalidInput("stream", f"is not a stream of the aggregate {self.name}")
        return parse_id(stream[len(prefix) :], field="stream")
