"""The erasure process of some accounts, run by hand until it has caught up."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adapters import wiring
from adapters.log import Log
from domain.kernel.events import Position
from domain.kernel.messages import Body
from domain.kernel.ports.event_store import CaughtUp
from domain.users.account import ErasureCompleted
from domain.users.traces import person_fields
from tests.support.accounts import Accounts
from tests.support.parts import replaced
from workers.erasures.claims import ClaimsProcess
from workers.erasures.cleaning import Cleaning
from workers.erasures.people import PeopleFinder
from workers.erasures.process import ErasureProcess
from workers.erasures.service import ErasuresService
from workers.users.owed import Listing


class Letters:
    """Dead letters in memory: `items` are requests and `{"unreadable": text}`."""

    def __init__(self, *items: Body) -> None:
        self.items = [*items]
        self.passes = 0

    def purge(self, about: Callable[[Body], set[int]]) -> Counter[int]:
        self.passes += 1
        removed: Counter[int] = Counter()
        for item in [*self.items]:
            if people := about(item):
                self.items.remove(item)
                removed.update(people)
        return removed

    def dead(self) -> int:
        return len(self.items)


class Erasures(Accounts):
    """Accounts with the processes of the role. A method with `parts` uses these instead of its own."""

    def __init__(self, folder: Path, log: Log, *, durable: bool = False) -> None:
        super().__init__(folder, durable=durable)
        self.log = log

    def listing(self, *, store: Any = None, vault: Any = None) -> Listing:
        return Listing(
            store=store or self.store,
            codec=self.codec,
            vault=vault or self.vault,
            now_us=lambda: self.now_us,
            log=self.log,
        )

    def process(
        self, *, store: Any = None, vault: Any = None, followed: Any = None, **more: Any
    ) -> ErasureProcess:
        """It ends when it has caught up, unless `followed` decides that."""
        store, vault = store or self.store, vault or self.vault
        return ErasureProcess(
            store=followed or until_caught_up(store),
            vault=vault,
            listing=self.listing(store=store, vault=vault),
            people=self.people(store=store, vault=vault),
            now_us=lambda: self.now_us,
            log=self.log,
            **{"monotonic_s": _ten_seconds_pass(), **more},
        )

    def people(self, *, store: Any = None, vault: Any = None) -> PeopleFinder:
        vault = vault or self.vault
        keyring = wiring.keyring_of(vault, even_owed=True)
        return PeopleFinder(
            store=store or self.store, codec=self.codec, vault=vault, keyring=keyring, log=self.log
        )

    def cleaning(self, *, store: Any = None, vault: Any = None, dead_letters: Any = None) -> Cleaning:
        store, vault = store or self.store, vault or self.vault
        return Cleaning(
            store=store,
            codec=self.codec,
            vault=vault,
            people=self.people(store=store, vault=vault),
            handler=self.handler(store=store, vault=vault),
            dead_letters=dead_letters,
            log=self.log,
            fields=person_fields(self.aggregates),
            monotonic_s=_ten_seconds_pass(),
        )

    def settling(self, *, pause: Callable[[float], None] = lambda _: None, **parts: Any) -> ClaimsProcess:
        parts = {"store": self.store, "vault": self.vault, **parts}
        return ClaimsProcess(
            store=until_caught_up(parts["store"]),
            vault=parts["vault"],
            claims=self.claims(**parts),
            unique=self.unique_claims(**parts),
            log=self.log,
            monotonic_s=_ten_seconds_pass(),
            pause=pause,
        )

    def run(self, *, dead_letters: Any = None, **parts: Any) -> None:
        """Run new processes until they have caught up, one after the other."""
        self.process(**parts).run(lambda: False)
        self.cleaning(dead_letters=dead_letters, **parts).clean()
        self.settling(**parts).run(lambda: False)

    def queries(
        self, process: ErasureProcess | None = None, cleaning: Cleaning | None = None, **parts: Any
    ) -> ErasuresService:
        parts = {"store": self.store, "vault": self.vault, **parts}
        return ErasuresService(
            **parts,
            codec=self.codec,
            listing=self.listing(**parts),
            process=process or self.process(),
            cleaning=cleaning or self.cleaning(),
            now_us=lambda: self.now_us,
        )

    def completions(self, user_id: int) -> int:
        return self.types(user_id).count(ErasureCompleted.type)

    def owed(self) -> dict[int, str]:
        """The state of each owed erasure."""
        return {owed.decided.subject: owed.state.value for owed in self.vault.owed(limit=1000)}

    def why_owed(self, user_id: int) -> str:
        owed = self.vault.owed_of(user_id)
        assert owed is not None
        return owed.last_error


def _ten_seconds_pass() -> Callable[[], float]:
    """A clock that advances between two looks, so that periodic work is done each time."""
    return itertools.count(100.0, 10.0).__next__


def until_caught_up(store: Any) -> Any:
    """A store whose followers end when they have caught up."""

    def follow(after: Position, *, stopped: Callable[[], bool], **more: Any) -> Iterator[Any]:
        for item in store.follow(after, stopped=stopped, **more):
            yield item
            if isinstance(item, CaughtUp):
                return

    return replaced(store, follow=follow)
