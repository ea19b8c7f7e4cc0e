"""Collect by what the data of people is recognised, before and after their keys are destroyed.

Promise: damage to a stream or a key hides no value that can still be known. Refusal: it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from uuid import UUID

from adapters.log import Log
from domain.kernel.errors import Damaged, EsError, Kind, UnknownEventType
from domain.kernel.events import Event, Recorded
from domain.kernel.personal import Personal
from domain.kernel.ports.codec import Codec, Opener
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import OwedTag, Vault
from domain.users.account import USER
from domain.users.traces import People, traces
from workers.runtime.opening import Showing


class PeopleFinder:
    def __init__(
        self,
        *,
        store: EventStore,
        codec: Codec,
        vault: Vault,
        keyring: Callable[[Sequence[int]], Opener],
        log: Log,
    ) -> None:
        """`keyring` opens with the keys of owed erasures too."""
        self._store = store
        self._codec = codec
        self._vault = vault
        self._keyring = keyring
        self._log = log

    def tags_of(self, subject: int) -> list[OwedTag]:
        """The tags of all addresses and names that the person's stream opens to. Those of claims are not among them."""
        addresses: set[str] = set()
        names: set[str] = set()
        with suppress(Damaged):  # the page of the key: the claims still tell the present address
            opener = Showing(self._keyring([subject]))
            for event in self._opened(subject, opener):
                for values, value in (
                    (addresses, getattr(event, "email", None)),
                    (names, getattr(event, "name", None)),
                ):
                    if isinstance(value, Personal):
                        values.add(value.value)
            if opener.is_key_missing:
                # Not destroyed, but lost: a newer copy of the vault would still open the data of this person.
                self._log.warning("key-was-missing", user_id=str(subject))
        return traces(addresses, names, self._vault.tags)

    def people(self, subjects: Sequence[int]) -> People:
        """What is known of people whose erasure is owed. It opens nothing."""
        found = People()
        tags = self._vault.owed_tags(subjects)
        for subject in subjects:
            found.add(subject, self._commands(subject), tags.get(subject, ()))
        return found

    def _opened(self, subject: int, opener: Opener) -> Iterator[Event]:
        for recorded in self._events(subject):
            with suppress(Damaged, UnknownEventType):
                yield self._codec.decode(recorded, subject=subject, opener=opener)

    def _commands(self, subject: int) -> Iterator[UUID]:
        for recorded in self._events(subject):
            with suppress(Damaged):
                yield self._codec.metadata(recorded).command_id

    def _events(self, subject: int) -> Iterator[Recorded]:
        """The events of a person, up to one that cannot be read."""
        try:
            yield from self._store.read_stream(USER.stream_of(subject))
        except EsError as error:
            if error.kind is not Kind.DAMAGED:
                raise
