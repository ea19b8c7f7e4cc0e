"""Workers of wallets, janitors and the erasure process as actors that go one call of store or vault at a time.

What `tests/support/interleavings.py` is for e-mail addresses: here two values of each wallet are unique, one of them with its owner.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.log import open_log
from domain.kernel.errors import EsError, Kind
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.unique import UniqueTaken, normal_text
from domain.users.account import Status
from tests.support.accounts import ADA, erase
from tests.support.builders import streams_of
from tests.support.erasures import until_caught_up
from tests.support.interleavings import Actor, Episode, Operation, Paused
from tests.support.wallets import WALLET, Wallets, close_wallet, open_wallet, rename_wallet

LABELS = ("main", "Main", "other")
"""The first two are one value."""
WALLETS = (5, 6)
_NEXT = 50
_TO_THE_END = 1000

__all__ = ["LABELS", "WALLETS", "Episode", "Operation", "WalletInterleavings"]


class WalletInterleavings:
    """One system with an owner whose wallet 5 is open, on which episodes are played.

    Operations: `("open", wallet, label)` with the label as its number, `("rename", wallet, label)`, `("close", wallet)`, `("erase",)` the
    owner, `("retry", n-th last command)`, `("janitor",)` one minute later, or `("processes",)`.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.wallets = Wallets(self.folder, open_log("interleavings", self.folder / "log"))
        self.actors: list[Actor] = []
        self.commands: list[Request] = []
        self.replied: dict[str, Body] = {}
        self.was_over = False
        """Whether the last interrupted actor was over before its interruption."""
        self.owner = self.wallets.a_user(ADA)
        self.play(("open", 5, "main"))

    def close(self) -> None:
        for actor in self.actors:
            actor.end()
        self.wallets.close()
        shutil.rmtree(self.folder)

    def play(
        self, operation: Operation, interruptions: Sequence[Any] = (), crashes_after: int | None = None
    ) -> None:
        """Run an operation, with the episodes that interrupt it, then check."""
        actor = self._started(*operation)
        for steps, episodes in interruptions:
            self._continue(actor, steps)
            self.was_over = actor.is_over
            for episode in episodes:
                self.play(*episode)
        self._continue(actor, _TO_THE_END if crashes_after is None else crashes_after)
        actor.end()
        self._collect()
        self.check()

    def _continue(self, actor: Actor, steps: int) -> None:
        for _ in range(steps):
            if not actor.is_over:
                actor.step()

    def _started(self, what: str, *how: Any) -> Actor:
        match what:
            case "janitor":
                self.wallets.let_reservations_expire()
                return self._begin(
                    "janitor", lambda a: self.wallets.unique_claims(**self._parts(a)).settle_expired()
                )
            case "processes":
                return self._begin("processes", lambda a: self.wallets.run(**self._parts(a)))
            case "erase":
                asked = erase(self.owner)
                return self._begin("users", lambda a: self.wallets.service(**self._parts(a)).handle([asked]))
            case "retry":
                return self._worker(self.commands[-1 - how[0] % len(self.commands)])
        self.commands.append(self._new_command(what, *how))
        return self._worker(self.commands[-1])

    def _new_command(self, kind: str, wallet: int, *label: str) -> Request:
        command = UUID(int=len(self.commands) + 1)
        match kind:
            case "open":
                return open_wallet(
                    wallet, label[0], owner=self.owner, number=normal_text(label[0]), command=command
                )
            case "rename":
                return rename_wallet(wallet, label[0], owner=self.owner, command=command)
        return close_wallet(wallet, command=command)

    # --- what always holds ---------------------------------------------------------------------

    def check(self) -> None:
        open_ = self.wallets.open_wallets()
        numbers = Counter(wallet.number for wallet in open_.values())
        assert all(count == 1 for count in numbers.values()), open_
        if not self._is_owner_erased():
            labels = Counter(normal_text(wallet.label) for wallet in open_.values())
            assert all(count == 1 for count in labels.values()), open_
        stored = self._stored()
        assert all(len(found) == 1 for found in stored.values()), "a command takes effect once"
        for command, reply in self.replied.items():
            assert [(reply["version"], reply["position"])] == stored[UUID(command)]

    def _is_owner_erased(self) -> bool:
        return self.wallets.user(self.owner).status is Status.ERASED

    def _stored(self) -> dict[UUID, list[tuple[int, int]]]:
        found: dict[UUID, list[tuple[int, int]]] = {}
        for name, _ in streams_of(self.wallets.store, WALLET.prefix):
            for recorded in self.wallets.store.read_stream(name):
                command = self.wallets.codec.metadata(recorded).command_id
                found.setdefault(command, []).append((recorded.version, recorded.position))
        return found

    # --- what holds at the end -----------------------------------------------------------------

    def check_at_the_end(self) -> None:
        for actor in self.actors:
            actor.end()
        self._collect()
        self.wallets.run()
        self.wallets.run_the_janitor()
        assert self.wallets.vault.expired_claims(now_us=self.wallets.now_us, limit=10) == []
        self._every_wallet_holds_what_it_has()
        self._everything_else_can_be_taken()
        for command in self.commands:
            (reply,) = self.wallets.ask(command)
            self._note(command, reply)
            is_definite = isinstance(reply, EsError) and reply.kind is Kind.REFUSED
            assert isinstance(reply, dict) or is_definite, (command, reply)
        self.check()

    def _every_wallet_holds_what_it_has(self) -> None:
        open_ = self.wallets.open_wallets()
        rules = ["number"] if self._is_owner_erased() else ["label", "number"]
        for wallet in (*WALLETS, 7):
            expected = [(rule, "confirmed") for rule in rules] if wallet in open_ else []
            assert self.wallets.held(wallet) == expected, (wallet, open_)

    def _everything_else_can_be_taken(self) -> None:
        open_ = self.wallets.open_wallets().values()
        is_erased = self._is_owner_erased()
        for wallet, value in enumerate(("main", "other"), start=_NEXT):
            # A number for all, a label for the owner.
            (reply,) = self.wallets.ask(open_wallet(wallet, "fresh", owner=77, number=value))
            is_taken = value in {each.number for each in open_}
            assert isinstance(reply, UniqueTaken if is_taken else dict), (value, reply)
            if isinstance(reply, dict):
                self.wallets.did(close_wallet(wallet))
            if not is_erased:
                (reply,) = self.wallets.ask(open_wallet(wallet + 9, value, owner=self.owner))
                is_taken = value in {normal_text(each.label) for each in open_}
                assert isinstance(reply, UniqueTaken if is_taken else dict), (value, reply)
                if isinstance(reply, dict):
                    self.wallets.did(close_wallet(wallet + 9))

    # --- actors --------------------------------------------------------------------------------

    def _begin(self, name: str, work: Any) -> Actor:
        self.actors.append(Actor(name, work))
        return self.actors[-1]

    def _parts(self, actor: Actor) -> dict[str, Any]:
        parts = {"store": until_caught_up(self.wallets.store), "vault": self.wallets.vault}
        return {name: Paused(actor, part, name) for name, part in parts.items()}

    def _worker(self, asked: Request) -> Actor:
        def work(actor: Actor) -> tuple[Request, Reply]:
            return asked, self.wallets.ask(asked, **self._parts(actor))[0]

        return self._begin("wallets", work)

    def _collect(self) -> None:
        """Note the replies of the actors that are over. An outage is no failure of theirs."""
        for actor in [actor for actor in self.actors if actor.is_over]:
            self.actors.remove(actor)
            is_outage = isinstance(actor.error, EsError) and actor.error.kind is Kind.UNAVAILABLE
            if actor.error is not None and not is_outage:
                raise actor.error
            if actor.name == "wallets" and actor.result is not None:
                self._note(*actor.result)

    def _note(self, asked: Request, reply: Reply) -> None:
        """A reply that a caller received is a promise from now on, unless nothing had to change."""
        command_id = str(asked.body["command_id"])
        if isinstance(reply, dict) and UUID(command_id) in self._stored():
            assert reply == self.replied.setdefault(command_id, reply), "a repeat has the first result"
