"""Process managers, the mirror of aggregates: pure `evolve(state, event)` and `react(state, event) -> effects`.

An aggregate turns commands into events. A process turns events into commands: it takes note of events of other streams, of
the answers to its commands and of its timers, and says what follows. Each instance has a stream of its own, which holds
what it noted and what it decided. So an instance is itself an aggregate (`process_aggregate`), and the command handler
gives it exact versions, first results for repeats, and batches.

Promise: what follows from an event is decided once. Its commands have ids that derive from the instance, the step and
the cause, so each has one effect however often it is sent. A timer is an event, and survives every restart. Refusal: a
process opens no personal value, and sends none. It carries ids; the addressee reads what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from domain.kernel.commands import Command
from domain.kernel.events import Event
from domain.kernel.process_errors import ProcessRulesUnknown

S = TypeVar("S")
PREFIX = "process-"
"""The prefix of the streams of all processes."""

Correlate = Callable[[Any, int], int | None]
"""The instance that an event concerns, or None: of the event and the id in the name of its stream."""


def by_stream(_event: Event, stream_id: int) -> int:
    """The instance has the id of the event's stream."""
    return stream_id


@dataclass(frozen=True, slots=True)
class Answered(Event):
    """A command of the process has its answer, which stays: done without a `code`, otherwise refused.

    `id` is that of the instance that the command changed: new if it created one, 0 if it was refused.
    """

    step: str
    code: str = ""
    message: str = ""
    id: int = 0

    @property
    def is_done(self) -> bool:
        return not self.code


@dataclass(frozen=True, slots=True)
class TimedOut(Event):
    """A timer of the process is due."""

    timer: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send a command until it is answered. `Answered` with its step follows. Each step is sent once in an instance."""

    step: str
    command: Command


@dataclass(frozen=True, slots=True)
class Cancel:
    """The command of a step is not wanted any more. `Answered` follows in any case.

    Its code is `command-cancelled`, and then the command never takes effect; or the command was answered before.
    """

    step: str


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Let `TimedOut` follow after some seconds. A timer with the same name is replaced."""

    timer: str
    after_s: float


@dataclass(frozen=True, slots=True)
class StopTimer:
    """Let `TimedOut` not follow. Without such a timer nothing happens."""

    timer: str


@dataclass(frozen=True, slots=True)
class End:
    """The process is over: nothing is noted any more, and no timer fires. Commands without an answer are still sent."""

    outcome: str = "completed"


Effect = Send | Cancel | SetTimer | StopTimer | End
Evolve = Callable[[Any, Event], Any]
React = Callable[[Any, Event], Sequence[Effect]]


@dataclass(frozen=True, slots=True)
class Rules:
    """Earlier rules, by which the instances that they started are decided until their end."""

    initial: Callable[[int], Any]
    evolve: Evolve
    react: React


@dataclass(frozen=True, kw_only=True, eq=False)
class Process(Generic[S]):
    """Everything about one process.

    `initial` makes the first state of the instance's id.
    `starts` are the events that begin an instance, `follows` those that concern one that was begun. `evolve` returns the
    next state, and accepts each of them, `Answered` and `TimedOut`. `react` says what follows, in the state after the
    event.
    """

    name: str
    initial: Callable[[int], S]
    evolve: Callable[[S, Any], S]
    react: Callable[[S, Any], Sequence[Effect]]
    starts: Mapping[type[Event], Correlate]
    follows: Mapping[type[Event], Correlate] = field(default_factory=dict)
    rules: int = 1
    """The version of `evolve` and `react`. Raise it when they change while instances are open, and keep the `earlier` ones."""
    earlier: Mapping[int, Rules] = field(default_factory=dict)

    @property
    def types(self) -> tuple[str, ...]:
        """The wire names of the events that it takes note of."""
        return tuple(dict.fromkeys(event.type for event in (*self.starts, *self.follows)))

    def instance_of(self, event: Event, stream: str) -> int | None:
        """The instance that an event of a stream concerns, or None."""
        correlate = self.starts.get(type(event)) or self.follows.get(type(event))
        id_ = stream.rpartition("-")[2]
        return correlate(event, int(id_) if id_.isdecimal() else 0) if correlate else None

    def rules_of(self, version: int) -> Rules:
        """Raises ProcessRulesUnknown."""
        if version == self.rules:
            return Rules(self.initial, self.evolve, self.react)
        if version not in self.earlier:
            raise ProcessRulesUnknown(self.name, version)
        return self.earlier[version]
