"""Find the data of people in dead letters: from their streams as far as they can be read, and from the vault.

Promise: all people are looked for in one pass, and damage to a stream or a key hides no value that can still be known.
Refusal: it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from domain.kernel.errors import Damaged, UnknownEventType
from domain.kernel.messages import Body
from domain.kernel.personal import Personal, Unreadable
from domain.kernel.ports.codec import Codec, Opener
from domain.kernel.ports.event_store import EventStore
from domain.users.account import USER
from domain.users.mail_domains import spellings
from domain.users.traces import Letter, Traces, request_letter, text_letter
from workers.runtime.opening import Showing


class People:
    def __init__(
        self,
        store: EventStore,
        codec: Codec,
        keyring: Opener,
        holder: Callable[[str], int | None],
        subjects: Sequence[int],
    ) -> None:
        """`holder` is the vault's. It attributes an address to a person whose stream or key is damaged."""
        self._store = store
        self._codec = codec
        self._opener = Showing(keyring)
        self._holder = holder
        self._damaged: set[int] = set()
        self._traces = [self._traces_of(subject) for subject in dict.fromkeys(subjects)]
        self.unknown = 0
        """The number of messages without requests that were attributed to none of these people."""

    def are_in(self, item: Body) -> bool:
        """Whether a request, or `{"unreadable": text}`, contains data of one of them."""
        text = item.get("unreadable")
        is_text = isinstance(text, str) and len(item) == 1
        letter = text_letter(str(text)) if is_text else request_letter(item)
        found = any(traces.are_in(letter) for traces in self._traces) or self._is_claimed(letter)
        self.unknown += is_text and not found
        return found

    def _is_claimed(self, letter: Letter) -> bool:
        """Whether an address in the letter is claimed by a person whose addresses cannot be read."""
        return bool(self._damaged) and any(
            self._holder(spelling) in self._damaged
            for address in letter.addresses()
            for spelling in spellings(address)
        )

    def _traces_of(self, subject: int) -> Traces:
        ids, addresses, names = {str(subject)}, set[str](), set[str]()
        for recorded in self._store.read_stream(USER.stream_of(subject)):
            with suppress(Damaged):
                ids.add(str(self._codec.metadata(recorded).command_id))
            try:
                event = self._codec.decode(recorded, subject=subject, opener=self._opener)
            except (Damaged, UnknownEventType):
                self._damaged.add(subject)
                continue
            for values, value in (
                (addresses, getattr(event, "email", None)),
                (names, getattr(event, "name", None)),
            ):
                if isinstance(value, Personal):
                    values.add(value.value)
                elif isinstance(value, Unreadable):
                    self._damaged.add(subject)
        return Traces(ids, addresses, names)
