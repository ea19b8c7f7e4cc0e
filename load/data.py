"""The data of a load process: which users exist, and the input of each request.

Promise: an operation works on what this run made. Memory is bounded: a pool keeps 100,000 ids, and replaces one of them by
a new one when it is full. While a pool is empty, the operation that fills it is sent instead. Refusal: a user is in no pool
while its address changes, or from its deletion on.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from domain.kernel.errors import Kind
from domain.kernel.messages import Body
from es.client import Failure
from load.people import People
from load.scenario import Operation
from load.templates import Made, Template

POOL_LIMIT = 100_000
_CHANGE = "users.change-email"
_TAKING = (_CHANGE, "users.delete", "users.erase")
"""Requests during which no other operation uses the user."""
_NO_EFFECT = (Kind.REFUSED, Kind.INVALID, Kind.NOT_FOUND)


class Pool:
    """Some of the instances that a command of this run made. Threads that read replies add to it."""

    def __init__(self, limit: int = POOL_LIMIT) -> None:
        self._made: list[Made] = []
        self._limit = limit
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._made)

    def add(self, made: Made, random: Random) -> None:
        with self._lock:
            if len(self._made) < self._limit:
                self._made.append(made)
            else:
                self._made[random.randrange(self._limit)] = made

    def pick(self, count: int, random: Random) -> list[Made]:
        """So many different ones."""
        with self._lock:
            return (
                random.sample(self._made, count)
                if count > 1
                else [self._made[int(random.random() * len(self._made))]]
            )

    def take(self, random: Random) -> Made:
        """Remove one and return it."""
        with self._lock:
            index = int(random.random() * len(self._made))
            made, self._made[index] = self._made[index], self._made[-1]
            self._made.pop()
            return made


@dataclass(frozen=True, slots=True)
class Prepared:
    """The input of a request, and what it was made of."""

    operation: Operation
    input: dict[str, Any]
    made: Sequence[Made]


class Data:
    """`prepare` is called by one thread, `learn` by others."""

    def __init__(self, operations: Sequence[Operation], people: People, random: Random) -> None:
        self._people = people
        self._random = random
        self._learning = Random(random.random())  # noqa: S311  # no secret; of the threads that read replies
        self._templates = {operation.name: Template(operation.input) for operation in operations}
        self._makers: Mapping[str, Operation] = {
            operation.kind: operation for operation in reversed(operations)
        }
        self._needs = {name: Counter(template.pools) for name, template in self._templates.items()}
        self.pools = {kind: Pool() for needs in self._needs.values() for kind in needs}

    def prepare(self, operation: Operation) -> Prepared:
        """The input of an operation, or of the one that makes what it needs."""
        while missing := self._missing(operation):
            operation = self._makers[missing]
        template = self._templates[operation.name]
        if operation.kind in _TAKING and template.needs_user:
            *others, _ = template.pools
            made = [*self._picked(Counter(others), others), self.pools["users.create"].take(self._random)]
        else:
            made = self._picked(self._needs[operation.name], template.pools)
        person = self._people.next() if template.needs_person else None
        return Prepared(operation, template.fill(self._random, person, made), made)

    def _missing(self, operation: Operation) -> str | None:
        for kind, count in self._needs[operation.name].items():
            if len(self.pools[kind]) < count:
                return kind
        return None

    def _picked(self, needs: Mapping[str, int], order: Sequence[str]) -> list[Made]:
        """As many as needed of each pool, in the given order."""
        picked = {kind: self.pools[kind].pick(count, self._random) for kind, count in needs.items()}
        return [picked[kind].pop() for kind in order]

    def learn(self, prepared: Prepared, reply: Body | Failure) -> None:
        """Note what a reply says: an instance was made, or a user has another address."""
        kind = prepared.operation.kind
        if not isinstance(reply, dict):
            if kind == _CHANGE and prepared.made and reply.kind in _NO_EFFECT:
                self._put_back(prepared)
            return
        if kind == _CHANGE and prepared.made:
            user = prepared.made[-1]
            user.email, user.position = prepared.input["email"], int(reply["position"])
            self._put_back(prepared)
        elif (pool := self.pools.get(kind)) is not None:
            id_ = next(
                (value for name, value in reply.items() if name.endswith("_id") and name != "command_id"),
                None,
            )
            if id_ is not None:
                made = Made(str(id_), prepared.input.get("email", ""), int(reply.get("position", 0)))
                pool.add(made, self._learning)

    def _put_back(self, prepared: Prepared) -> None:
        self.pools["users.create"].add(prepared.made[-1], self._learning)
