"""The ledger of the wallets example, read from the events: the sum of all money, and what each transfer did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from domain.kernel.events import Event, Recorded
from examples.wallets.transfers import TransferRequested, TransferSettled
from examples.wallets.wallet import WalletCredited, WalletDebited


@dataclass
class Ledger:
    """What the events up to one position say. Money in flight was taken from one wallet and is in no other yet."""

    balances: Counter[str] = field(default_factory=Counter)
    deposited: int = 0
    debited: Counter[int] = field(default_factory=Counter)
    credited: Counter[int] = field(default_factory=Counter)
    requested: dict[int, TransferRequested] = field(default_factory=dict)
    outcomes: dict[int, list[str]] = field(default_factory=dict)

    def take(self, recorded: Recorded, event: Event) -> None:
        """Take the next event. Raises AssertionError if it makes or destroys money."""
        id_ = int(recorded.stream.rpartition("-")[2])
        match event:
            case TransferRequested():
                self.requested[id_] = event
            case TransferSettled(outcome=outcome):
                self.outcomes.setdefault(id_, []).append(outcome)
            case WalletDebited(amount=amount, transfer_id=transfer, balance=balance):
                self._move(recorded.stream, -amount, balance)
                self._note(self.debited, transfer, amount)
            case WalletCredited(amount=amount, transfer_id=transfer, balance=balance):
                self._move(recorded.stream, amount, balance)
                self._note(self.credited, transfer, amount)

    def _note(self, side: Counter[int], transfer: int, amount: int) -> None:
        if not transfer:
            self.deposited += amount if side is self.credited else -amount
            return
        side[transfer] += amount
        assert side[transfer] == self.requested[transfer].amount, f"transfer {transfer} moved money twice"
        assert self.credited[transfer] <= self.debited[transfer], f"transfer {transfer} made money"

    def _move(self, wallet: str, amount: int, balance: int) -> None:
        self.balances[wallet] += amount
        assert self.balances[wallet] == balance >= 0, f"{wallet} holds {balance}, its events say otherwise"

    @property
    def in_flight(self) -> int:
        return self.debited.total() - self.credited.total()

    def check(self) -> None:
        """At every position: the money in wallets and in flight is what was deposited."""
        assert self.balances.total() + self.in_flight == self.deposited

    def check_end(self) -> None:
        """At the end: each transfer is settled once, a completed one reached its target, and nothing is in flight."""
        assert self.outcomes.keys() == self.requested.keys()
        assert {len(outcomes) for outcomes in self.outcomes.values()} <= {1}
        assert self.in_flight == 0
        for transfer, (outcome,) in self.outcomes.items():
            if outcome == "completed":
                assert self.credited[transfer] == self.requested[transfer].amount


def ledger(events: Iterable[tuple[Recorded, Event]]) -> Ledger:
    """Read events in commit order, and check the sum after each."""
    found = Ledger()
    for recorded, event in events:
        found.take(recorded, event)
        found.check()
    return found
