"""Check streams in themselves, and users against their keys and claims, for `es doctor --deep`.

Promise: a user is reported only if the vault and the user's stream, read again, still disagree. Refusal: no address
and no name leaves this module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import ClassVar
from uuid import UUID

from adapters.clock import now_us
from domain.kernel.errors import (
    Damaged,
    EsError,
    KeyDamaged,
    KeyUnavailable,
    SealedByNewer,
    Tampered,
    UnknownEventType,
)
from domain.kernel.events import REMEMBERED, Event, Recorded, event_id, former_event_id
from domain.kernel.history import History
from domain.kernel.personal import Personal, Sealed
from domain.kernel.ports.codec import Codec, Opener
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.read_model import ReadModel
from domain.kernel.ports.vault import Claim, ClaimState, DamagedKey, DataKey, DestroyedKey, LivingKey, Vault
from domain.kernel.projection import Key, Operation, Projection, Put, Row, Value
from domain.kernel.system import CommandRemembered
from domain.users.account import USER, Status, User, UserEmailChanged, UserRegistered, evolve

_TRIES = 3
_PAUSE_S = 0.3
"""The time between two looks at a user: a command or the erasure may be under way."""


class _StreamRows(Projection):
    """A row for each stream, in the scratch read model. `status` and those after it are for users."""

    name: ClassVar[str] = "streams_of_the_deep_check"
    prefixes: ClassVar[Sequence[str]] = ()
    key: ClassVar[str] = "stream"
    key_type: ClassVar[str] = "TEXT"
    columns: ClassVar[Mapping[str, str]] = {
        "version": "INTEGER",
        "command_id": "TEXT",
        "number": "INTEGER",
        "status": "TEXT",
        "completed": "INTEGER",
        "email": "TEXT",
        "email_command": "TEXT",
    }


_ROWS = _StreamRows()
_NEW: Row = {
    "version": -1,
    "command_id": None,
    "number": 0,
    "status": Status.UNKNOWN.value,
    "completed": 0,
    "email": None,
    "email_command": None,
}


class Streams:
    """The state of every stream after the events that were read."""

    def __init__(
        self,
        *,
        scratch: ReadModel,
        codec: Codec,
        keyring: Callable[[Sequence[int]], Opener],
        prefixes: tuple[str, ...],
        report: Callable[[str], None],
    ) -> None:
        """`prefixes` are those of the aggregates, whose events get their ids from their command."""
        self._scratch = scratch
        self._generation = scratch.prepare(_ROWS, now_us=now_us())
        self._codec = codec
        self._keyring = keyring
        self._prefixes = prefixes
        self._report = report

    def read(self, events: Sequence[Recorded]) -> None:
        """Check the next events of the store, and remember where their streams are."""
        people = {person for event in events for person in self._people(event)}
        opener = self._keyring([*people])
        states = self.of({event.stream for event in events})
        for recorded in events:
            state = states.get(recorded.stream, _NEW)
            states[recorded.stream] = self._after(state, recorded, opener)
        operations: list[Operation] = [Put(stream, state) for stream, state in states.items()]
        moved = self._scratch.apply(
            _ROWS, self._generation, operations, reached=History(events[-1].position), events=len(events)
        )
        assert moved is not None, "no other process writes the scratch read model"
        self._generation = moved

    def of(self, streams: set[str]) -> dict[str, Row]:
        rows = self._scratch.rows(_ROWS, keys=[*streams])
        return {str(row.pop(_ROWS.key)): row for row in rows}

    def pages(self, size: int) -> Iterator[Mapping[str, Row]]:
        """All streams in order of their names."""
        after: Key | None = None
        while rows := self._scratch.rows(_ROWS, after=after, limit=size):
            page = {str(row.pop(_ROWS.key)): row for row in rows}
            yield page
            after = max(page)

    def folded(self, events: Iterator[Recorded]) -> Row:
        """The state of one stream from its events, without a check."""
        state = _NEW
        for recorded in events:
            state = self._advanced(state, recorded, self._codec.decode(recorded))
        return state

    def _people(self, recorded: Recorded) -> Iterator[int]:
        """Who an event may hold data of: their keys are fetched in one query."""
        yield from self._codec.subjects(recorded)
        number = recorded.stream.rpartition("-")[2]
        if number.isdecimal() and len(number) < 20:  # no id is longer
            yield int(number)

    def _after(self, state: Row, recorded: Recorded, opener: Opener) -> Row:
        name = f"event {recorded.version} of {recorded.stream}"
        expected = _whole(state, "version") + 1
        if recorded.version != expected:
            self._report(f"{name} comes where event {expected} is due")
        try:
            event = self._codec.decode(recorded)
            after = self._advanced(state, recorded, event)
        except EsError as error:
            self._report(f"{name}: {error}")
            return {**state, "version": recorded.version}
        if recorded.stream.startswith(self._prefixes):
            command_id = UUID(str(after["command_id"]))
            number = REMEMBERED if recorded.type == CommandRemembered.type else _whole(after, "number")
            if recorded.event_id not in (event_id(command_id, number), former_event_id(command_id, number)):
                self._report(f"{name} has not the id that follows from its command id")
        self._open(name, recorded, event, opener)
        return after

    def _advanced(self, state: Row, recorded: Recorded, event: Event) -> Row:
        command_id = str(self._codec.metadata(recorded).command_id)
        is_next = command_id == state["command_id"]
        after: dict[str, Value] = {
            **state,
            "version": recorded.version,
            "command_id": command_id,
            "number": _whole(state, "number") + 1 if is_next else 0,
        }
        if recorded.stream.startswith(USER.prefix):
            before = User(Status(str(state["status"])), erasure_completed=bool(state["completed"]))
            user = evolve(before, event)
            after |= {"status": user.status.value, "completed": int(user.erasure_completed)}
            if isinstance(event, UserRegistered | UserEmailChanged) and isinstance(event.email, Sealed):
                after |= {"email": event.email.text, "email_command": command_id}
        return after

    def _open(self, name: str, recorded: Recorded, event: Event, opener: Opener) -> None:
        """Open every sealed value, and forget it."""
        for each in fields(event):
            value = getattr(event, each.name)
            if isinstance(value, Sealed):
                # A missing or damaged key is found when the vault is compared.
                with suppress(KeyUnavailable, KeyDamaged):
                    self._open_value(name, recorded, each.name, value, opener)

    def _open_value(self, name: str, recorded: Recorded, field: str, value: Sealed, opener: Opener) -> None:
        owner = value.text.split(":")[1] if value.text.count(":") == 3 else ""
        subject = int(owner) if owner.isdecimal() else 0
        if recorded.stream.startswith(USER.prefix):
            subject = USER.id_of(recorded.stream)
        try:
            opener.open(value, subject=subject, field=field, event_id=recorded.event_id)
        except Tampered:
            self._report(f"{name}: its sealed {field} was altered or moved")
        except SealedByNewer as error:
            self._report(f"{name}: {error}. {error.hint}")


class AccountCheck:
    """Compares users with the vault."""

    def __init__(
        self,
        streams: Streams,
        *,
        store: EventStore,
        vault: Vault,
        keyring: Callable[[Sequence[int]], Opener],
        problems: Callable[[str, str], None],
    ) -> None:
        self._streams = streams
        self._keyring = keyring
        self._store = store
        self._vault = vault
        self._problems = problems

    def check(self, page: Mapping[str, Row]) -> int:
        """Compare users as their streams tell; the number of users in the page."""
        users = {USER.id_of(name): state for name, state in page.items() if name.startswith(USER.prefix)}
        keys = self._vault.data_keys([*users]) if users else {}
        self._look_again(
            [subject for subject, state in users.items() if self._problem(subject, state, keys.get(subject))]
        )
        return len(users)

    def check_subjects(self, subjects: Sequence[int]) -> None:
        """Compare the vault's subjects with the streams: a claim belongs to a user."""
        known = self._streams.of({USER.stream_of(subject) for subject in subjects})
        unknown = [subject for subject in subjects if USER.stream_of(subject) not in known]
        self._look_again([subject for subject in unknown if self._claimed(subject)])

    def _claimed(self, subject: int) -> bool:
        """Whether the subject has an address. `workers/unique_check.py` compares claims on other values."""
        return any(
            claim.state is ClaimState.CONFIRMED and not claim.stream for claim in self._claims(subject)
        )

    def _claims(self, subject: int) -> list[Claim]:
        return self._vault.claims_of([subject], now_us=now_us())

    def _look_again(self, subjects: Sequence[int]) -> None:
        """Report each problem that is still there after a command that is under way has had time to end."""
        problems = dict.fromkeys(subjects, "")
        for _ in range(_TRIES):
            if not problems:
                return
            time.sleep(_PAUSE_S)  # once for all of them: a lost vault has as many as the store has users
            again = {subject: self._problem_now(subject) for subject in problems}
            problems = {subject: problem for subject, problem in again.items() if problem}
        for problem in problems.values():
            self._problems("vault", problem)

    def _problem_now(self, subject: int) -> str | None:
        # The vault before the stream: what a command reserved is decided by the stream.
        key = self._vault.data_keys([subject]).get(subject)
        claimed = self._claimed(subject)
        try:
            state = self._streams.folded(self._store.read_stream(USER.stream_of(subject)))
        except (Damaged, UnknownEventType):
            return None  # it was reported when the event was read
        if state is _NEW:
            return f"user {subject} has a claim on an e-mail address, but no events" if claimed else None
        return self._problem(subject, state, key)

    def _problem(self, subject: int, state: Row, key: DataKey | None) -> str | None:
        status = Status(str(state["status"]))
        if status is Status.ERASED:
            is_alive = isinstance(key, LivingKey | DamagedKey) or bool(self._claims(subject))
            return (
                f"user {subject} is erased, but has a key or a claim"
                if state["completed"] and is_alive
                else None
            )
        if status is Status.UNKNOWN:
            return None
        if isinstance(key, DestroyedKey):
            return f"the data key of user {subject} is destroyed, but no erasure was decided"
        if not isinstance(key, LivingKey):
            return f"user {subject} has no usable data key"
        return self._claim_problem(subject, state) if status is Status.ACTIVE else None

    def _claim_problem(self, subject: int, state: Row) -> str | None:
        kept = state["email_command"]
        if all(str(claim.command_id) != kept for claim in self._claims(subject)):
            return f"user {subject} has no claim on the user's e-mail address"
        try:
            sealed = Sealed(str(state["email"]))
            email = self._keyring([subject]).open(sealed, subject=subject, field="email", event_id=None)
        except (Tampered, SealedByNewer):
            return None  # it was reported when the event was read
        if isinstance(email, Personal) and self._vault.holders([email.value]) != {email.value: subject}:
            return f"the claim of user {subject} is not on the user's e-mail address"
        return None


def _whole(row: Row, column: str) -> int:
    value = row[column]
    assert isinstance(value, int)
    return value
