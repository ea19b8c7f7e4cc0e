"""Compare two generations of a projection, row by row, at one and the same position.

Promise: it holds a page of each in memory, and blocks no projector. Sealed values are compared sealed. Refusal: with a
parked event in either it says nothing about the code: rows that lack an event cannot be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import cast

from domain.kernel.events import Position
from domain.kernel.messages import Body
from domain.kernel.ports.read_model import Snapshot
from domain.kernel.projection import Key, Projection, Value

PAGE = 1_000
SAMPLES = 3
"""The number of keys that a report names of each difference: an operator looks at some, not at all."""

_Row = dict[str, Value]


class Stopped(Exception):
    """The comparison ends without a result: the worker stops, or the check was cancelled."""


@dataclass
class Difference:
    """The rows with one kind of difference: how many, and the keys of the first ones."""

    rows: int = 0
    keys: list[Key] = field(default_factory=list)

    def add(self, key: Key) -> None:
        self.rows += 1
        if len(self.keys) < SAMPLES:
            self.keys.append(key)

    def body(self) -> Body:
        # As text: whole numbers of 64 bits do not fit the numbers of JSON.
        return {"rows": self.rows, "keys": [str(key) for key in self.keys]}


@dataclass
class Comparison:
    """What two generations at `position` have in common, and what not. Of each pair, the first is that of the first one."""

    numbers: tuple[int, int]
    position: Position
    parked: tuple[int, int]
    rows: list[int] = field(default_factory=lambda: [0, 0])
    only: tuple[Difference, Difference] = field(default_factory=lambda: (Difference(), Difference()))
    differ: Difference = field(default_factory=Difference)
    columns: dict[str, Difference] = field(default_factory=dict)

    @property
    def result(self) -> str:
        if any(self.parked):
            return "untrusted"
        return "differs" if self.differ.rows or any(side.rows for side in self.only) else "equal"

    def body(self) -> Body:
        first, second = self.numbers
        return {
            "generations": [first, second],
            "position": self.position,
            "result": self.result,
            "rows": self.rows,
            "parked": list(self.parked),
            "only_first": self.only[0].body(),
            "only_second": self.only[1].body(),
            "differ": self.differ.body(),
            "columns": {name: found.body() for name, found in sorted(self.columns.items())},
        }

    def turned(self) -> Comparison:
        """The same with the generations in the other order."""
        return Comparison(
            self.numbers[::-1],
            self.position,
            self.parked[::-1],
            self.rows[::-1],
            self.only[::-1],
            self.differ,
            self.columns,
        )

    def add_alone(self, side: int, key: Key) -> None:
        self.rows[side] += 1
        self.only[side].add(key)

    def add_both(self, key: Key, first: _Row, second: _Row) -> None:
        self.rows[0] += 1
        self.rows[1] += 1
        if first == second:
            return
        self.differ.add(key)
        for name in first.keys() | second.keys():
            # A column of one generation only differs in every row: other code built it.
            if name not in first or name not in second or first[name] != second[name]:
                self.columns.setdefault(name, Difference()).add(key)


def compare(
    projection: Projection, first: Snapshot, second: Snapshot, *, stopped: Callable[[], bool]
) -> Comparison:
    """Compare two generations whose checkpoints are equal. `stopped` is asked before each page; then it raises `Stopped`."""
    assert first.generation.checkpoint == second.generation.checkpoint
    found = Comparison(
        (first.generation.number, second.generation.number),
        first.generation.checkpoint,
        (first.parked, second.parked),
    )
    lefts, rights = (_rows(projection, side, stopped) for side in (first, second))
    left, right = next(lefts, None), next(rights, None)
    while left is not None or right is not None:
        if right is None or (left is not None and _is_before(left[0], right[0])):
            assert left is not None
            found.add_alone(0, left[0])
            left = next(lefts, None)
        elif left is None or _is_before(right[0], left[0]):
            found.add_alone(1, right[0])
            right = next(rights, None)
        else:
            found.add_both(left[0], left[1], right[1])
            left, right = next(lefts, None), next(rights, None)
    return found


def _rows(
    projection: Projection, snapshot: Snapshot, stopped: Callable[[], bool]
) -> Iterator[tuple[Key, _Row]]:
    """The rows in order of key, read page by page."""
    after: Key | None = None
    while True:
        if stopped():
            raise Stopped()
        page = snapshot.rows(after, PAGE)
        for row in page:
            after = cast(Key, row.pop(projection.key))
            yield after, row
        if len(page) < PAGE:
            return


def _is_before(one: Key, other: Key) -> bool:
    """The order of read models: whole numbers by value, texts by code point."""
    return one < other  # type: ignore[operator]  # the keys of a projection are of one type
