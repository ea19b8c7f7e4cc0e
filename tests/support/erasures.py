"""The erasure process of some accounts, run by hand until it has caught up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adapters import wiring
from adapters.log import Log
from domain.kernel.events import Position
from domain.kernel.ports.event_store import CaughtUp
from domain.users.account import ErasureCompleted
from tests.support.accounts import Accounts
from tests.support.parts import replaced
from workers.erasures.process import ErasureProcess
from workers.erasures.service import ErasuresService


class Erasures(Accounts):
    """Accounts with the erasure process. A method with `parts` uses these instead of its own."""

    def __init__(self, folder: Path, log: Log) -> None:
        super().__init__(folder)
        self.log = log

    def process(self, *, purge_dead_letters: Any = None, **parts: Any) -> ErasureProcess:
        parts = {"store": self.store, "vault": self.vault, **parts}
        return ErasureProcess(
            store=until_caught_up(parts["store"]),
            vault=parts["vault"],
            codec=self.codec,
            claims=self.claims(**parts),
            handler=self.handler(**parts),
            keyring=wiring.keyring_of(parts["vault"]),
            log=self.log,
            purge_dead_letters=purge_dead_letters,
            # Ten seconds pass between two looks, so periodic work is done each time.
            monotonic_s=itertools.count(100.0, 10.0).__next__,
        )

    def run(self, **parts: Any) -> None:
        """Run a new process until it has caught up."""
        self.process(**parts).run(lambda: False)

    def queries(self, process: ErasureProcess | None = None) -> ErasuresService:
        process = process or self.process()
        return ErasuresService(store=self.store, codec=self.codec, process=process)

    def completions(self, user_id: int) -> int:
        return self.types(user_id).count(ErasureCompleted.type)


def until_caught_up(store: Any) -> Any:
    """A store whose followers end when they have caught up."""

    def follow(after: Position, *, stopped: Callable[[], bool], **more: Any) -> Iterator[Any]:
        for item in store.follow(after, stopped=stopped, **more):
            yield item
            if isinstance(item, CaughtUp):
                return

    return replaced(store, follow=follow)
