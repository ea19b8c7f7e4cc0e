"""Orders and their outcomes: what a command handler is given, and what it answers."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Generic
from uuid import UUID

from domain.kernel.aggregate import C
from domain.kernel.commands import Command, inputs_of, personal_inputs
from domain.kernel.errors import EsError
from domain.kernel.events import Metadata, Position
from domain.kernel.personal import Personal, subject_fields
from domain.kernel.ports.codec import Keyed

NO_PERSON = 0
"""The subject of an order for a stream that is not a person's. No id is 0."""


@dataclass(slots=True)
class Order(Generic[C]):
    """A command for a stream. `subject` is the person whose stream it is, or `NO_PERSON`.

    Not frozen: one is made for every request, and a frozen dataclass of so many fields takes three times as long to make.

    With the data key of the subject, personal fields without an `Of` are sealed.
    `is_new` says that the stream does not exist yet. It is then not loaded before the first append.
    `content` is the input as `content_of` writes it; its digest in the events tells another input with this command id.
    """

    command: C
    stream: str
    subject: int
    metadata: Metadata
    is_new: bool = False
    content: bytes = field(default=b"", repr=False)
    is_personal: bool = False
    """Whether the input holds personal data. Data keys then key the digest, which dies with each of them."""
    people: tuple[int, ...] | None = ()
    """The persons whose data the input holds, besides the subject. None: the events of the command name them."""
    plain_content: bytes = field(default=b"", repr=False)
    """The content without personal input, if `people` is None: the digest of a command whose events name no person."""
    remembers: bool = False
    """Whether the stream keeps the answer also if it is a refusal, or if nothing had to change."""
    reservations: tuple[UUID, ...] = ()
    """Its reservations of unique values. It takes effect only before the stream holds the fence of one."""
    held_at: int | None = None
    """The only version at which it is decided: there the instance has the values that it takes. None: at any version."""
    verdict: EsError | None = None
    """The decision, if it is a refusal from elsewhere: nothing is decided then. A first result of the command goes before."""

    @property
    def person(self) -> int | None:
        """The person whose stream it is."""
        return None if self.subject == NO_PERSON else self.subject

    @property
    def reads(self) -> bool:
        return getattr(self.command, "reads", True)


def content_of(command: Command, *, without: Collection[str] = ()) -> bytes:
    """The parsed input of a command, `without` some fields, in one form: a repeat in another spelling is the same input.

    Not as JSON, which takes five times as long. A length before each value keeps different inputs apart.
    """
    parts = []
    for name in inputs_of(type(command)):
        if name in without:
            continue
        value = getattr(command, name)
        text = value.value if type(value) is Personal else f"{value}"
        parts.append(f"{name}={len(text)}:{text}")
    return ",".join(parts).encode("utf-8", "surrogatepass")


_DIGEST_BYTES = 9
"""72 bits, as 12 letters. The digest finds mistakes of a caller; it is no protection against one who searches."""


def people_in(command: Command, *, is_own: bool) -> tuple[int, ...] | None:
    """The persons whose data the input of a command holds, by the `Of` of its fields; None if one has none.

    `is_own` says that a field without an `Of` is of the person whose stream it is, who is not among them.
    """
    named = subject_fields(type(command))
    if is_own and not named:  # of users: most commands of a store
        return ()
    personal = personal_inputs(type(command))
    if not (is_own or personal <= named.keys()):
        return None
    found = tuple(dict.fromkeys(getattr(command, of) for field, of in named.items() if field in personal))
    return found if all(isinstance(person, int) for person in found) else None


def digest_of(order: Order[Any], keyed: Keyed, named: Iterable[int] = ()) -> str:
    """The digest of the order's content; empty if it has none, or without the data key of a person in it.

    `named` are the persons that its last event names.

    It depends on the key of each of them: the erasure of one leaves nothing by which their input could be guessed.
    """
    if not order.content:
        return ""
    if not order.is_personal:
        return _digest(sha256(order.content).digest())
    if order.people is None:
        people = tuple(sorted(named))
        if not people:
            return _digest(sha256(order.plain_content).digest())
    else:
        people = order.people if order.person is None else (order.subject, *order.people)
    raw = order.content
    for person in people:
        raw = raw and keyed.keyed(raw, subject=person)
    return _digest(raw) if people else ""


def _digest(raw: bytes) -> str:
    return urlsafe_b64encode(raw[:_DIGEST_BYTES]).decode()


@dataclass(frozen=True, slots=True)
class Done:
    """Version and position of the command's last event, or of the stream's last event if nothing had to change.

    `is_repeat` says that the command took effect before. Version and position are those of its first result.
    `is_unchanged` says that nothing had to change.
    """

    version: int
    position: Position
    is_repeat: bool = field(default=False, compare=False)
    is_unchanged: bool = field(default=False, compare=False)


Outcome = Done | EsError
