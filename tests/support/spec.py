"""Given past events, when a command is decided, then these events or this refusal.

    users = Aggregate(INITIAL, evolve, decide)
    users.given(registered).when(RenameUser(1, Personal("Grace"))).then(UserRenamed(Personal("Grace")))

Promise: every `then` decides twice. The second time the first decision is in the past, and the same command must yield
nothing. A failure shows both sides as a diff with readable personal values, which are invented here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import reduce
from typing import Any

from domain.kernel.errors import EsError
from domain.kernel.events import Event
from domain.kernel.personal import Personal

Decision = Sequence[Event] | EsError


@dataclass(frozen=True)
class Aggregate:
    """The two functions of an aggregate and its first state."""

    initial: Any
    evolve: Callable[[Any, Event], Any]
    decide: Callable[..., Decision]

    def given(self, *past: Event) -> Given:
        return Given(self, past)

    def fold(self, events: Sequence[Event]) -> Any:
        return reduce(self.evolve, events, self.initial)


@dataclass(frozen=True)
class Given:
    aggregate: Aggregate
    past: tuple[Event, ...]

    @property
    def state(self) -> Any:
        return self.aggregate.fold(self.past)

    def when(self, command: Any, *context: Any) -> When:
        """`context` are further arguments of the aggregate's `decide`: a time, new ids."""
        return When(self, command, context)


@dataclass(frozen=True)
class When:
    given: Given
    command: Any
    context: tuple[Any, ...]

    def then(self, *expected: Event | EsError, again: Sequence[Event] | EsError = ()) -> None:
        """Check the events, in order, or the one refusal; without arguments, that nothing happens.

        `again` is the decision on the same command once its events are in the past. A refusal is the same twice.
        """
        aggregate, past = self.given.aggregate, self.given.past
        decision = aggregate.decide(self.given.state, self.command, *self.context)
        self._compare("the first time", expected, _listed(decision))
        if isinstance(decision, EsError):
            again, decision = decision, []
        second = aggregate.decide(aggregate.fold([*past, *decision]), self.command, *self.context)
        self._compare("repeated", _listed(again), _listed(second))

    def _compare(self, when: str, expected: Sequence[Any], actual: Sequence[Any]) -> None:
        if list(expected) == list(actual) and [*map(type, expected)] == [*map(type, actual)]:
            return
        story = [
            f"given    {[shown(event) for event in self.given.past]}",
            f"when     {shown(self.command)} ({when})",
            *difflib.ndiff(_lines(expected), _lines(actual)),
        ]
        raise AssertionError("\n".join(story))


def _listed(decision: Decision) -> list[Event | EsError]:
    return [decision] if isinstance(decision, EsError) else list(decision)


def _lines(outcome: Sequence[Any]) -> list[str]:
    return [shown(item) for item in outcome] or ["nothing"]


def shown(value: Any) -> str:
    """A dataclass in full, personal values readable."""
    if isinstance(value, Personal):
        return repr(value.value)
    if is_dataclass(value) and not isinstance(value, type):
        inside = ", ".join(f"{field.name}={shown(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__name__}({inside})"
    return repr(value)
