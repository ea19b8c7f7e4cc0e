"""Remove requests of erased people that became dead letters after their erasure was completed.

Promise: looking costs one question to the broker unless the number of dead letters changed. Refusal: only ids of users
and of their registrations count, because the tags of addresses and names are gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Protocol
from uuid import UUID

from adapters.log import Log
from domain.kernel.errors import EsError, InvalidInput
from domain.kernel.ids import parse_id
from domain.kernel.messages import Body
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import DestroyedKey, Reason, Vault
from domain.users.account import ERASING, USER
from domain.users.traces import Letter, PersonFields, letter_of

_IDS_LIMIT = 1000
"""Numbers of one letter that are looked up at most."""
_REST = 20.0
"""How many times as long as the last pass took nothing is read again."""


class DeadLetters(Protocol):
    """The dead letters of all roles: see `adapters/rabbitmq/dead_letters.py`."""

    def purge(self, about: Callable[[Body], set[int]]) -> Mapping[int, int]: ...
    def dead(self) -> int: ...


class LateLetters:
    def __init__(
        self,
        dead_letters: DeadLetters,
        *,
        store: EventStore,
        codec: Codec,
        vault: Vault,
        log: Log,
        fields: PersonFields,
    ) -> None:
        self._fields = fields
        self._dead_letters = dead_letters
        self._store = store
        self._codec = codec
        self._vault = vault
        self._log = log
        self._seen = 0
        """The number of dead letters after the last pass."""
        self._rests_until_s = float("-inf")
        self._logged = ""

    def look(self, now_s: float) -> None:
        """Purge again if the number of dead letters changed. A failure is logged once, and tried again."""
        try:
            self._look(now_s)
            self._logged = ""
        except EsError as error:
            if str(error) != self._logged:
                self._log.error("dead-letters-not-seen", error)
            self._logged = str(error)

    def _look(self, now_s: float) -> None:
        dead = self._dead_letters.dead()
        if dead in (0, self._seen) or now_s < self._rests_until_s:
            self._seen = dead and self._seen
            return
        started_s = time.monotonic()
        removed = self._dead_letters.purge(self._erased_in)
        self._rests_until_s = now_s + _REST * (time.monotonic() - started_s)
        self._seen = self._dead_letters.dead()
        if removed:
            self._log.info("dead-letters-purged", count=sum(removed.values()))

    def _erased_in(self, item: Body) -> set[int]:
        """The erased people whose ids a letter names. A request that also names another user is not theirs."""
        letter = letter_of(item, self._fields)
        named = letter.users or {*_numbers(letter), *self._vault.registered_by(_commands(letter)).values()}
        keys = self._vault.data_keys([*islice(named, _IDS_LIMIT)])
        return {
            subject
            for subject, key in keys.items()
            if isinstance(key, DestroyedKey) and self._is_erased(subject, key)
        }

    def _is_erased(self, subject: int, key: DestroyedKey) -> bool:
        if key.reason is not Reason.UNKNOWN:
            return key.reason is Reason.ERASURE
        return any(event.type in ERASING for event in self._store.read_stream(USER.stream_of(subject)))


def _commands(letter: Letter) -> list[UUID]:
    """What may be the id of a registration: such a request names no user."""
    found: list[UUID] = []
    for text in letter.ids():
        with suppress(ValueError):
            found.append(UUID(text))
    return found[:_IDS_LIMIT]


def _numbers(letter: Letter) -> set[int]:
    found: set[int] = set()
    for text in letter.ids():
        if text.isdecimal():
            with suppress(InvalidInput):
                found.add(parse_id(text))
    return found
