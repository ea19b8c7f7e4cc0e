"""Projections and rows for tests of read models, which see neither events nor what `apply` makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from domain.kernel.events import Event, Position, Recorded
from domain.kernel.history import History
from domain.kernel.ports.read_model import Generation, Parked, ReadModel
from domain.kernel.projection import Key, Operation, Projection, Put, Row, Value

NOW_US = 1_760_000_000_000_000


class Things(Projection):
    name: ClassVar[str] = "things"
    prefixes: ClassVar[Sequence[str]] = ("thing-",)
    key: ClassVar[str] = "thing_id"
    columns: ClassVar[Mapping[str, str]] = {"colour": "TEXT", "size": "INTEGER"}
    usual: ClassVar[Mapping[str, str]] = {"colour": "red"}

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        raise AssertionError("a read model knows nothing of events")


class OtherThings(Things):
    name: ClassVar[str] = "other_things"


class NamedThings(Things):
    name: ClassVar[str] = "named_things"
    key_type: ClassVar[str] = "TEXT"


class BareThings(Things):
    name: ClassVar[str] = "bare_things"
    columns: ClassVar[Mapping[str, str]] = {}
    usual: ClassVar[Mapping[str, str]] = {}


THINGS, OTHERS, NAMED, BARE = Things(), OtherThings(), NamedThings(), BareThings()


SELECTIONS: list[dict[str, Any]] = [
    {"prefix": "b"},
    {"prefix": "b", "after": "a"},
    {"prefix": "b", "after": "b5"},
]
"""Selections of rows by prefix. Each must search the key, from the greater of its two lower bounds."""


def put(key: Key, colour: str | None = "red", size: int | None = 1) -> Put:
    return Put(key, {"colour": colour, "size": size})


def row(key: Key, colour: str | None = "red", size: int | None = 1) -> dict[str, Value]:
    return {"thing_id": key, "colour": colour, "size": size}


def apply(
    model: ReadModel,
    generation: Generation,
    *operations: Operation,
    projection: Projection = THINGS,
    checkpoint: Position | None = None,
    reached: History | None = None,
    parked: Sequence[Parked] = (),
) -> Generation | None:
    """Apply with the checkpoint moved by one for each operation, unless it or a history is given."""
    if reached is None:
        reached = History(generation.checkpoint + len(operations) if checkpoint is None else checkpoint)
    return model.apply(
        projection, generation, operations, reached=reached, events=len(operations), parked=parked
    )


def moved(
    model: ReadModel, generation: Generation, *operations: Operation, projection: Projection = THINGS
) -> Generation:
    """The generation after an apply that must succeed."""
    after = apply(model, generation, *operations, projection=projection)
    assert after is not None
    return after


def prepared(model: ReadModel, projection: Projection = THINGS) -> Generation:
    return model.prepare(projection, now_us=NOW_US)


def rebuilding(model: ReadModel, projection: Projection = THINGS) -> Generation:
    return model.begin_rebuild(projection, now_us=NOW_US)


def promoted(model: ReadModel, *operations: Operation, projection: Projection = THINGS) -> Generation:
    """Rebuild a projection and promote the new generation; returns it as it was before."""
    built = moved(model, rebuilding(model, projection), *operations, projection=projection)
    assert model.promote(projection, built, now_us=NOW_US)
    return built
