"""User accounts for tests: the parts around them, a clock that is moved by hand, and requests to the `users` role."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from adapters import wiring
from adapters.memory.event_store import MemoryStore
from adapters.sqlite.event_store import SqliteStore
from adapters.sqlite.vault import SqliteVault
from domain.features import registry
from domain.kernel.command_handler import CommandHandler
from domain.kernel.events import EventData
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.personal import Personal
from domain.kernel.ports.event_store import Appended, EventStore
from domain.kernel.ports.vault import (
    ClaimRequest,
    ClaimState,
    DamagedKey,
    DestroyedKey,
    LivingKey,
    Reserved,
    Vault,
)
from domain.users.account import INITIAL, USER, Status, User, evolve
from domain.users.commands import UserCommand
from domain.users.reservations import RESERVATION_LIFE_US
from tests.support.builders import append, streams_of
from tests.support.vaults import holder
from workers.runtime.claims import UniqueClaims
from workers.users.claims import Claims
from workers.users.service import UsersService

ADA, GRACE, ALAN = "ada@example.com", "grace@example.com", "alan@example.com"
NOW_US = 1_760_000_000_000_000
NEW_IDS = range(1000, 1100)
"""The first ids that a test draws."""


class Accounts:
    """Store, vault, service and janitor over one folder. A method with `parts` uses these instead of its own."""

    features: tuple[str, ...] = ()
    """The modules of outside features."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        """The vault is a file in the folder; the event store is one as well if `durable`, otherwise in memory."""
        folder.mkdir(parents=True, exist_ok=True)
        self.now_us = NOW_US
        self.codec = wiring.open_codec(self.features)
        self.aggregates = registry(self.features).aggregates
        self.store: EventStore = MemoryStore(now_us=lambda: self.now_us)
        if durable:
            self.store = SqliteStore(folder / "events.db", now_us=lambda: self.now_us)
        self.vault_path = folder / "vault.db"
        self.vault: Vault = self.open_vault()
        self._ids = itertools.count(NEW_IDS.start)

    def open_vault(self) -> SqliteVault:
        return SqliteVault(self.vault_path, kek=bytes(range(32)))

    def close(self) -> None:
        self.vault.close()
        self.store.close()

    def take_ids(self, count: int) -> Sequence[int]:
        return [next(self._ids) for _ in range(count)]

    # --- the code under test -------------------------------------------------------------------

    def service(self, **parts: Any) -> UsersService:
        vault = parts.get("vault", self.vault)
        return UsersService(
            **{**self._own_parts(), "keyring": wiring.keyring_of(vault), "take_ids": self.take_ids, **parts}
        )

    def claims(self, **parts: Any) -> Claims:
        return Claims(**{**self._own_parts(), **parts})

    def unique_claims(self, **parts: Any) -> UniqueClaims:
        own = self._own_parts()
        del own["new_id"]
        return UniqueClaims(self.aggregates, **{**own, **parts})

    def _own_parts(self) -> dict[str, Any]:
        return {
            "store": self.store,
            "codec": self.codec,
            "vault": self.vault,
            "now_us": lambda: self.now_us,
            "new_id": uuid4,
            "pause": lambda _: None,
        }

    def handler(
        self, *, store: EventStore | None = None, vault: Vault | None = None
    ) -> CommandHandler[User, UserCommand]:
        return CommandHandler(
            USER,
            store=store or self.store,
            codec=self.codec,
            keyring=wiring.keyring_of(vault or self.vault),
            pause=lambda _: None,
        )

    def handle(self, *requests: Request) -> list[Reply]:
        return self.service().handle(requests)

    def done(self, request: Request) -> Body:
        """Handle one request that must succeed."""
        (reply,) = self.handle(request)
        assert isinstance(reply, dict), reply
        return reply

    def a_user(self, email: str = ADA) -> int:
        return int(self.done(create(email))["user_id"])

    # --- time and damage -----------------------------------------------------------------------

    def let_reservations_expire(self) -> None:
        self.now_us += RESERVATION_LIFE_US + 1

    def run_the_janitor(self) -> int:
        """Settle every reservation, after it has expired."""
        self.let_reservations_expire()
        return self.claims().settle_expired() + self.unique_claims().settle_expired()

    def reserve(self, email: str, subject: int, *, registers: bool = False) -> UUID:
        """A reservation whose command does not continue. Returns its id."""
        request = ClaimRequest(email, subject, uuid4(), uuid4(), registers)
        (answer,) = self.vault.reserve([request], now_us=self.now_us)
        assert isinstance(answer, Reserved)
        return answer.reservation_id

    def store_event(self, user_id: int, type_: str, data: bytes = b"{}") -> None:
        """Append any event to a user's stream, with metadata that this program does not write."""
        version = len(list(self.store.read_stream(USER.stream_of(user_id)))) - 1
        event = EventData(uuid4(), type_, data, b"{}")
        assert isinstance(append(self.store, USER.stream_of(user_id), version, [event]), Appended)

    def damage(self, user_id: int) -> None:
        self.store_event(user_id, "user-renamed.v1", b"not JSON")

    def change_vault(self, statement: str, *values: Any) -> None:
        """Change the vault, as damage would."""
        assert isinstance(self.vault, SqliteVault)
        with self.vault._database.writing() as connection:
            connection.execute(statement, values)

    # --- the state ----------------------------------------------------------------------------

    def user(self, user_id: int) -> User:
        """The account, folded from its opened stream."""
        keyring = wiring.keyring_of(self.vault)([user_id])
        user = INITIAL
        for recorded in self.store.read_stream(USER.stream_of(user_id)):
            user = evolve(user, self.codec.decode(recorded, subject=user_id, opener=keyring))
        return user

    def active(self) -> list[tuple[int, str]]:
        """Every active user with their e-mail address."""
        found = []
        for name, _ in streams_of(self.store, USER.prefix):
            user = self.user(USER.id_of(name))
            if user.status is Status.ACTIVE:
                assert isinstance(user.email, Personal), "the address of an active user can be opened"
                found.append((USER.id_of(name), user.email.value))
        return found

    def owner(self, email: str) -> int:
        """The only active user with an address. The vault must agree."""
        (owner,) = [user_id for user_id, address in self.active() if address == email]
        assert holder(self.vault, email) == owner
        return owner

    def holders(self, *emails: str) -> list[int | None]:
        return [holder(self.vault, email) for email in emails]

    def states(self, user_id: int) -> list[ClaimState]:
        return [claim.state for claim in self.vault.claims_of([user_id], now_us=self.now_us)]

    def expired(self) -> int:
        """The number of reservations that no janitor has settled."""
        return len(self.vault.expired_claims(now_us=self.now_us * 2, limit=10))

    def types(self, user_id: int) -> list[str]:
        return [recorded.type for recorded in self.store.read_stream(USER.stream_of(user_id))]

    def with_keys(self) -> set[int]:
        """The new ids for which the vault has a row, also a tombstone."""
        return set(self.vault.data_keys(NEW_IDS))

    def has_key(self, user_id: int) -> bool:
        return isinstance(self.vault.data_keys([user_id], even_owed=True).get(user_id), LivingKey)

    def may_have_key(self, user_id: int) -> bool:
        """Whether the vault holds anything that may be the key of a user, also if it opens nothing any more."""
        key = self.vault.data_keys([user_id], even_owed=True).get(user_id)
        return isinstance(key, LivingKey | DamagedKey)

    def is_erased(self, user_id: int) -> bool:
        """Whether the key is destroyed, and not only owed."""
        return isinstance(self.vault.data_keys([user_id], even_owed=True).get(user_id), DestroyedKey)


# --- requests --------------------------------------------------------------------------------


def request(verb: str, command: UUID | None = None, /, **input_: str) -> Request:
    body = {"input": input_, "command_id": str(command or uuid4()), "actor": "uid:1000"}
    return Request(f"users.{verb}", body)


def create(email: str = ADA, command: UUID | None = None) -> Request:
    return request("create", command, email=email, name="Some Body")


def rename(user_id: int, name: str = "Other Name", command: UUID | None = None) -> Request:
    return request("rename", command, user_id=str(user_id), name=name)


def change(user_id: int, email: str, command: UUID | None = None) -> Request:
    return request("change-email", command, user_id=str(user_id), email=email)


def delete(user_id: int, command: UUID | None = None) -> Request:
    return request("delete", command, user_id=str(user_id))


def erase(user_id: int, command: UUID | None = None) -> Request:
    return request("erase", command, user_id=str(user_id), basis="gdpr-request")
