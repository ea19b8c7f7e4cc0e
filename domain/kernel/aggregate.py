"""An aggregate: the state that decisions need, and the two pure verbs on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from domain.kernel.errors import EsError
from domain.kernel.events import Event

S = TypeVar("S")
C = TypeVar("C")


@dataclass(frozen=True)
class Aggregate(Generic[S, C]):
    """The two verbs of an aggregate and the state they start from."""

    initial: S
    evolve: Callable[[S, Event], S]
    decide: Callable[[S, C], Sequence[Event] | EsError]
