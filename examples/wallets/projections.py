"""Read models of wallets: what each holds, and what moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import es
from examples.wallets.wallet import (
    WALLET,
    WalletClosed,
    WalletCredited,
    WalletDebited,
    WalletDescribed,
    WalletOpened,
)


class Balances(es.Projection):
    """A row for each wallet."""

    name = "balances"
    prefixes = (WALLET.prefix,)
    key = "wallet_id"
    columns: ClassVar = {
        "owner_id": "INTEGER",
        "label": "TEXT",
        "description": "TEXT",
        "balance": "INTEGER",
        "status": "TEXT",
    }

    def apply(self, recorded: es.Recorded, event: es.Event, row: es.Row | None) -> Sequence[es.Operation]:
        wallet_id = WALLET.id_of(recorded.stream)
        match event:
            case WalletOpened(owner_id=owner, label=label):
                opened: es.Row = {"owner_id": owner, "label": label, "balance": 0, "status": "open"}
                return [es.Put(wallet_id, {**opened, "description": None})]
            case WalletDescribed(description=es.Sealed(text=sealed)):
                return [es.Change(wallet_id, {"description": sealed})]
            case WalletCredited(balance=balance) | WalletDebited(balance=balance):
                return [es.Change(wallet_id, {"balance": balance, "status": "open"})]
            case WalletClosed():
                return [es.Change(wallet_id, {"status": "closed"})]
        return []


class Statements(es.Projection):
    """A row for each movement, by wallet and version: `es wallets statements list --prefix 42:`."""

    name = "statements"
    prefixes = (WALLET.prefix,)
    key = "movement"
    key_type = "TEXT"
    columns: ClassVar = {
        "amount": "INTEGER",
        "balance": "INTEGER",
        "transfer_id": "INTEGER",
        "at_us": "INTEGER",
    }

    def apply(self, recorded: es.Recorded, event: es.Event, row: es.Row | None) -> Sequence[es.Operation]:
        match event:
            case WalletCredited() | WalletDebited():
                key = f"{WALLET.id_of(recorded.stream)}:{recorded.version:010}"
                amount = event.amount if isinstance(event, WalletCredited) else -event.amount
                moved: es.Row = {"amount": amount, "balance": event.balance, "transfer_id": event.transfer_id}
                return [es.Put(key, {**moved, "at_us": recorded.recorded_at_us})]
        return []
