"""How often a batch of commands waits for other machines: a bound that does not depend on the size of the batch.

For a server, the turns from requests to replies on its connections are counted, by a proxy that delays them. For an
adapter without a server, each call of a method counts, as if it were one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from adapters.memory.event_store import MemoryStore
from adapters.postgres.vault import PostgresVault
from adapters.sqlite.event_store import SqliteStore
from domain.kernel.messages import Reply, Request
from domain.users.errors import EmailTaken
from tests.support.accounts import Accounts, change, create, delete, rename
from tests.support.builders import open_store
from tests.support.node import Node
from tests.support.parts import Steps
from tests.support.proxy import Proxy, proxied
from tests.support.vaults import KEK

BATCH = 256
LIMIT = 8
ROUND_TRIP_S = 0.2
"""Longer than it takes to send the requests that are sent together."""


@dataclass
class Waits:
    """A system whose waits for other machines are counted."""

    accounts: Accounts
    parts: dict[str, Any]
    proxies: list[Proxy] = field(default_factory=list)
    steps: Steps = field(default_factory=Steps)

    def during(self, requests: Sequence[Request]) -> tuple[int, list[Reply]]:
        """Handle a batch. Returns the number of waits, and the replies."""
        service = self.accounts.service(**self.parts)
        for proxy in self.proxies:
            proxy.round_trip_s = ROUND_TRIP_S
        before = self.count()
        replies = service.handle(requests)
        waits = self.count() - before
        for proxy in self.proxies:
            proxy.round_trip_s = 0.0
        return waits, replies

    def count(self) -> int:
        return len(self.steps.calls) + sum(sum(proxy.turns) for proxy in self.proxies)


@pytest.fixture(params=["memory", "sqlite", "esdb"])
def waits(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Waits]:
    """Over each store, with SQLite's vault."""
    with ExitStack() as stack:
        yield _system(stack, tmp_path, request.param)


@pytest.fixture(params=["memory", "esdb"])
def waits_with_postgres(request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str) -> Iterator[Waits]:
    with ExitStack() as stack:
        yield _system(stack, tmp_path, request.param, postgres_url)


def _system(stack: ExitStack, folder: Path, store: str, postgres_url: str | None = None) -> Waits:
    accounts = stack.enter_context(closing(Accounts(folder)))
    waits = Waits(accounts, {})
    local: dict[str, Any] = {}

    def behind_proxy(url: str) -> str:
        proxy, url = proxied(url)
        waits.proxies.append(stack.enter_context(closing(proxy)))
        return url

    if store == "esdb":
        node = stack.enter_context(closing(Node()))
        accounts.store = stack.enter_context(closing(open_store(behind_proxy(node.url))))
    else:
        local["store"] = accounts.store
        if store == "sqlite":
            local["store"] = accounts.store = SqliteStore(folder / "events.db")
    if postgres_url is None:
        local["vault"] = accounts.vault
    else:
        accounts.vault.close()
        accounts.vault = PostgresVault(behind_proxy(postgres_url), kek=KEK)
    assert isinstance(accounts.store, MemoryStore | SqliteStore) or store == "esdb"
    waits.parts = waits.steps.watched(**local)
    drawn = waits.steps.watched(ids=accounts)["ids"]
    waits.parts["take_ids"] = drawn.take_ids
    return waits


KINDS: dict[str, Callable[[list[int]], list[Request]]] = {
    "creates": lambda users: [create(f"new{number}@example.com") for number in range(BATCH)],
    "renames": lambda users: [rename(user) for user in users],
    "changes": lambda users: [change(user, f"moved{user}@example.com") for user in users],
    "deletions": lambda users: [delete(user) for user in users],
    "refusals": lambda users: [create(f"user{number}@example.com") for number in range(BATCH)],
}


def _check(waits: Waits, kind: str) -> None:
    registered = waits.accounts.service().handle(
        [create(f"user{number}@example.com") for number in range(BATCH)]
    )
    users = [int(reply["user_id"]) for reply in registered if isinstance(reply, dict)]
    assert len(users) == BATCH

    count, replies = waits.during(KINDS[kind](users))

    if kind == "refusals":
        assert replies == [EmailTaken()] * BATCH
    else:
        assert all(isinstance(reply, dict) for reply in replies)
    assert 0 < count <= LIMIT


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_waits_at_most_eight_times_for_other_machines(waits: Waits, kind: str) -> None:
    _check(waits, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_over_postgresql_waits_at_most_eight_times(waits_with_postgres: Waits, kind: str) -> None:
    _check(waits_with_postgres, kind)
