"""The data of a load process: which users exist, and the input of each request.

Promise: an operation works on what this run made. Memory is bounded: a pool keeps 100,000 ids, and replaces one of them by
a new one when it is full. While a pool is empty, the operation that fills it is sent instead. Refusal: no other request uses a
user while its address changes, or from its deletion on; so the tool's own requests never contradict each other.
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
from load.templates import USERS, Made, Template

POOL_LIMIT = 100_000
_TRIES = 8
_CHANGE = "users.change-email"
_TAKING = (_CHANGE, "users.delete", "users.erase")
"""Requests that no other request uses the user beside: their replies would depend on which comes first."""
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
        """So many different ones, which are in use until `release`."""
        with self._lock:
            if count == 1:
                picked = [self._made[int(random.random() * len(self._made))]]
            else:
                picked = random.sample(self._made, count)
            for made in picked:
                made.uses += 1
            return picked

    def release(self, made: Made) -> None:
        with self._lock:
            made.uses -= 1

    def take(self, random: Random) -> Made | None:
        """Remove one that is not in use and return it. None if some random ones are all in use."""
        with self._lock:
            for _ in range(min(_TRIES, len(self._made))):
                index = int(random.random() * len(self._made))
                made = self._made[index]
                if not made.uses:
                    self._made[index] = self._made[-1]
                    self._made.pop()
                    return made
        return None


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
            user = self.pools[USERS].take(self._random)
            if user is None:
                return self.prepare(self._makers[USERS])
            *others, _ = template.pools
            made = [*self._picked(Counter(others), others), user]
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
        operation = prepared.operation
        template = self._templates[operation.name]
        is_taken = operation.kind in _TAKING and template.needs_user
        used = template.pools[:-1] if is_taken else template.pools
        for kind, made in zip(used, prepared.made, strict=False):
            self.pools[kind].release(made)
        if operation.kind == _CHANGE and is_taken:
            self._put_back(prepared, reply)
        elif isinstance(reply, dict) and (pool := self.pools.get(operation.kind)) is not None:
            id_ = next(
                (value for name, value in reply.items() if name.endswith("_id") and name != "command_id"),
                None,
            )
            if id_ is not None:
                new = Made(str(id_), prepared.input.get("email", ""), int(reply.get("position", 0)))
                pool.add(new, self._learning)

    def _put_back(self, prepared: Prepared, reply: Body | Failure) -> None:
        """After a change of the address; not if its outcome is unknown."""
        user = prepared.made[-1]
        if isinstance(reply, dict):
            user.email, user.position = prepared.input["email"], int(reply["position"])
        elif reply.kind not in _NO_EFFECT:
            return
        self.pools[USERS].add(user, self._learning)
