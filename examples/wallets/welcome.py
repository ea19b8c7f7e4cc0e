"""A welcome process: each new user gets a wallet, which is closed again if the user never uses it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import es
from examples.wallets.wallet import CloseWallet, OpenWallet, WalletCredited

UNUSED_S = float(os.environ.get("WALLETS_UNUSED_S", str(30 * 86_400)))
"""How long the wallet may stay unused."""


@dataclass(frozen=True, slots=True)
class Welcome:
    user_id: int
    wallet_id: int = 0


def evolve(welcome: Welcome, event: es.Event) -> Welcome:
    match event:
        case es.Answered(step="open", code="", id=wallet_id):
            return replace(welcome, wallet_id=wallet_id)
    return welcome


def react(welcome: Welcome, event: es.Event) -> Sequence[es.Effect]:
    match event:
        case es.UserRegistered():
            return [es.Send("open", OpenWallet(welcome.user_id, "welcome"))]
        case es.Answered(step="open", code=code):
            return [es.End(code)] if code else [es.SetTimer("unused", UNUSED_S)]
        case WalletCredited():
            return [es.End("used")]
        case es.TimedOut():
            return [es.Send("close", CloseWallet(welcome.wallet_id))]
        case es.Answered(step="close", code=code):
            return [es.End(code or "closed")]
        case es.UserErased():
            return [es.End("erased")]
    return []


WELCOME = es.Process(
    name="welcome",
    initial=Welcome,
    evolve=evolve,
    react=react,
    starts={es.UserRegistered: es.by_stream},
    follows={
        WalletCredited: lambda event, _: event.owner_id,
        es.UserErased: es.by_stream,
    },
)
