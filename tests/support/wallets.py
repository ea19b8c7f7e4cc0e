"""A feature of an outside package: wallets, whose labels are unique for each owner, and their numbers for all.

`ES_FEATURES=tests.support.wallets` registers it. A label goes with its owner's erasure, a number with the wallet alone. A
closed wallet can be opened again, so an earlier refusal may not hold later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar
from uuid import UUID, uuid4

from adapters import wiring
from adapters.log import Log
from domain.kernel.aggregate import Aggregate
from domain.kernel.command_handler import CommandHandler
from domain.kernel.commands import Command, Input
from domain.kernel.errors import EsError, InvalidInput, Refusal
from domain.kernel.events import Event
from domain.kernel.feature import Feature, Role
from domain.kernel.ids import parse_id
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.ports.vault import ClaimState
from domain.kernel.unique import Unique, UniqueTaken
from tests.support.builders import streams_of
from tests.support.erasures import Erasures
from workers.runtime.commands import CommandService
from workers.runtime.unique import UniqueHandler

# --- events and state ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WalletOpened(Event):
    owner_id: int
    label: str
    number: str
    type: ClassVar[str] = "wallet-opened.v1"


@dataclass(frozen=True, slots=True)
class WalletRenamed(Event):
    label: str
    type: ClassVar[str] = "wallet-renamed.v1"


@dataclass(frozen=True, slots=True)
class WalletClosed(Event):
    type: ClassVar[str] = "wallet-closed.v1"


@dataclass(frozen=True, slots=True)
class Wallet:
    is_open: bool = False
    owner_id: int = 0
    label: str = ""
    number: str = ""


def evolve(wallet: Wallet, event: Event) -> Wallet:
    match event:
        case WalletOpened(owner_id, label, number):
            return Wallet(True, owner_id, label, number)
        case WalletRenamed(label):
            return Wallet(True, wallet.owner_id, label, wallet.number)
        case WalletClosed():
            return Wallet()
    raise TypeError("an event of the kernel changes no state")


# --- commands --------------------------------------------------------------------------------


def parse_wallet_id(value: object) -> int:
    return parse_id(value, field="wallet_id")


def parse_owner_id(value: object) -> int:
    return parse_id(value, field="owner_id")


def parse_label(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInput("label", "must be text")
    return value


WalletId = Annotated[int, Input(parse_wallet_id, "The wallet's id.", "ID")]
OwnerId = Annotated[int, Input(parse_owner_id, "The owner's id.", "OWNER")]
Label = Annotated[str, Input(parse_label, "The label.", "LABEL")]


@dataclass(frozen=True, slots=True)
class OpenWallet(Command):
    """Open a wallet."""

    wallet_id: WalletId
    owner_id: OwnerId
    label: Label
    number: Annotated[str, Input(parse_label, "The number.", "NUMBER")]
    wire: ClassVar[str] = "open-wallet"
    request: ClassVar[str] = "wallets.open"


@dataclass(frozen=True, slots=True)
class RenameWallet(Command):
    """Rename a wallet."""

    wallet_id: WalletId
    owner_id: OwnerId
    label: Label
    wire: ClassVar[str] = "rename-wallet"
    request: ClassVar[str] = "wallets.rename"


@dataclass(frozen=True, slots=True)
class CloseWallet(Command):
    """Close a wallet."""

    wallet_id: WalletId
    wire: ClassVar[str] = "close-wallet"
    request: ClassVar[str] = "wallets.close"


class WalletIsClosed(Refusal):
    """Rule: a closed wallet is neither renamed nor closed."""

    code = "wallet-closed"
    hint = "Open it."

    def __str__(self) -> str:
        return "the wallet is closed"


class LabelTaken(UniqueTaken):
    """Rule: an owner has one wallet with a label."""

    code = "label-taken"

    def __str__(self) -> str:
        return "the owner has another wallet with this label"


def decide(wallet: Wallet, command: OpenWallet | RenameWallet | CloseWallet) -> Sequence[Event] | EsError:
    match command:
        case OpenWallet(owner_id=owner_id, label=label, number=number):
            return [] if wallet.is_open else [WalletOpened(owner_id, label, number)]
    if not wallet.is_open:
        return WalletIsClosed()
    match command:
        case RenameWallet(label=label):
            return [] if label == wallet.label else [WalletRenamed(label)]
        case CloseWallet():
            return [WalletClosed()]


WALLET: Aggregate[Wallet, OpenWallet | RenameWallet | CloseWallet] = Aggregate(
    name="wallet",
    initial=Wallet(),
    evolve=evolve,
    decide=decide,
    events=(WalletOpened, WalletRenamed, WalletClosed),
    commands=(OpenWallet, RenameWallet, CloseWallet),
    unique=(
        Unique(
            "label",
            ("owner_id", "label"),
            taken_by=(WalletOpened, WalletRenamed),
            released_by=(WalletClosed,),
            person="owner_id",
            taken=LabelTaken,
        ),
        Unique("number", ("number",), taken_by=(WalletOpened,), released_by=(WalletClosed,)),
    ),
)

AGGREGATES = (WALLET,)
FEATURE = Feature(name="wallets", help="Keep wallets.", model=__name__, roles=(Role("wallets"),))

# --- a system with wallets -------------------------------------------------------------------


class Wallets(Erasures):
    """Accounts, their erasures and their wallets. A method with `parts` uses these instead of its own."""

    features = ("tests.support.wallets",)

    def __init__(self, folder: Path, log: Log, *, durable: bool = False) -> None:
        super().__init__(folder, log, durable=durable)

    def wallet_service(self, **parts: Any) -> CommandService:
        own = {**self._own_parts(), **parts}
        made = {name: own[name] for name in ("vault", "now_us", "pause")}

        def unique(aggregate: Aggregate[Any, Any], plain: CommandHandler[Any, Any]) -> UniqueHandler:
            claims = self.unique_claims(**parts)
            return UniqueHandler(aggregate, plain, claims=claims, new_id=own["new_id"], **made)

        return CommandService(
            [WALLET],
            store=own["store"],
            codec=self.codec,
            keyring=wiring.keyring_of(own["vault"]),
            pause=own["pause"],
            unique=unique,
        )

    def ask(self, *requests: Request, **parts: Any) -> list[Reply]:
        return self.wallet_service(**parts).handle(requests)

    def did(self, request: Request) -> Body:
        """Handle one request that must succeed."""
        (reply,) = self.ask(request)
        assert isinstance(reply, dict), reply
        return reply

    def wallet(self, wallet_id: int) -> Wallet:
        wallet = Wallet()
        for recorded in self.store.read_stream(WALLET.stream_of(wallet_id)):
            event = self.codec.decode(recorded)
            if isinstance(event, WALLET.events):
                wallet = evolve(wallet, event)
        return wallet

    def open_wallets(self) -> dict[int, Wallet]:
        """The open wallets, without those of erased owners."""
        found = {
            WALLET.id_of(name): self.wallet(WALLET.id_of(name))
            for name, _ in streams_of(self.store, WALLET.prefix)
        }
        return {id_: wallet for id_, wallet in found.items() if wallet.is_open}

    def held(self, wallet_id: int) -> list[tuple[str, str]]:
        """Rule and state of each claim of a wallet."""
        claims = self.vault.claims_on([WALLET.stream_of(wallet_id)], now_us=self.now_us)
        return sorted((claim.rule, claim.state.value) for claim in claims)

    def wallet_types(self, wallet_id: int) -> list[str]:
        return [recorded.type for recorded in self.store.read_stream(WALLET.stream_of(wallet_id))]


BOTH = [("label", ClaimState.CONFIRMED.value), ("number", ClaimState.CONFIRMED.value)]
"""What an open wallet holds."""


def ask_of(verb: str, command: UUID | None = None, /, **input_: object) -> Request:
    body = {
        "input": {name: str(value) for name, value in input_.items()},
        "command_id": str(command or uuid4()),
        "actor": "uid:1000",
    }
    return Request(f"wallets.{verb}", body)


def open_wallet(
    wallet: int, label: str = "main", *, owner: int = 1, number: str = "", command: UUID | None = None
) -> Request:
    """Its number is that of the wallet unless one is given."""
    return ask_of("open", command, wallet_id=wallet, owner_id=owner, label=label, number=number or wallet)


def rename_wallet(wallet: int, label: str, *, owner: int = 1, command: UUID | None = None) -> Request:
    return ask_of("rename", command, wallet_id=wallet, owner_id=owner, label=label)


def close_wallet(wallet: int, *, command: UUID | None = None) -> Request:
    return ask_of("close", command, wallet_id=wallet)
