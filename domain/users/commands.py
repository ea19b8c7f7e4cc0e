"""The commands of user accounts, and the parsers of their input.

Promise: an e-mail address is stored and compared in one form. Refusal: unprintable or invisible input is refused
with the name of the field, without the value.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Annotated, ClassVar
from uuid import UUID

from domain.kernel.commands import Command, Input
from domain.kernel.errors import InvalidInput
from domain.kernel.ids import parse_id
from domain.kernel.personal import Personal
from domain.kernel.texts import one_line, shows_nothing
from domain.users.mail_domains import unicode_domain

NAME_MAX_CHARACTERS = 200
EMAIL_MAX_CHARACTERS = 254  # RFC 5321 §4.5.3.1.3, less the angle brackets
EMAIL_LOCAL_MAX_CHARACTERS = 64  # RFC 5321 §4.5.3.1.1

BASES = {
    "gdpr-request": "the person asked for it (GDPR Art. 17(1))",
    "ccpa-request": "the person asked for it (CCPA, Cal. Civ. Code 1798.105)",
    "consent-withdrawn": "the person withdrew the consent (GDPR Art. 17(1)(b))",
    "objection": "the person objected (GDPR Art. 17(1)(c))",
    "retention": "the time for which the data may be kept is over (GDPR Art. 17(1)(a))",
    "unlawful": "the data was processed unlawfully (GDPR Art. 17(1)(d))",
    "legal-duty": "a law or a court demands it (GDPR Art. 17(1)(e))",
}
"""The reasons for an erasure that a caller can give, by code. A text could hold personal data, and it stays readable."""

DEFAULT_BASIS = "gdpr-request"
_EARLIER_DEFAULT_BASIS = "GDPR Art. 17"

_EMAIL = re.compile(r"[^\s@\"(),:;<>\[\\\]]+@[^\s@.\"(),:;<>\[\\\]]+(\.[^\s@.\"(),:;<>\[\\\]]+)+")


def parse_name(value: object) -> Personal:
    return Personal(one_line("name", value, NAME_MAX_CHARACTERS))


def parse_email(value: object) -> Personal:
    """Parse an e-mail address into the form in which it is stored and compared: trimmed, lower case, NFC.

    Its domain is in the Unicode spelling (`domain/users/mail_domains.py`).
    """
    # NFC again after lower(), which can undo it: NFC writes a lower-case "J\u030c" as one letter.
    text = unicodedata.normalize("NFC", one_line("email", value, EMAIL_MAX_CHARACTERS).lower())
    if not text.isascii() or "xn--" in text:
        local, _, domain = text.rpartition("@")
        if not text.isascii() or "xn--" in domain:
            text = f"{local}@{unicode_domain(domain)}"
    if not _EMAIL.fullmatch(text) or ".." in text or text.startswith(".") or ".@" in text:
        raise InvalidInput("email", "is not an e-mail address like ada@example.com")
    if not text.isprintable() or shows_nothing(text):  # otherwise two addresses could look the same
        raise InvalidInput("email", "contains an invisible character")
    if len(text) > EMAIL_MAX_CHARACTERS:
        raise InvalidInput("email", f"is longer than {EMAIL_MAX_CHARACTERS} characters")
    if len(text.partition("@")[0]) > EMAIL_LOCAL_MAX_CHARACTERS:
        raise InvalidInput("email", f"has more than {EMAIL_LOCAL_MAX_CHARACTERS} characters before the @")
    return Personal(text)


def parse_basis(value: object) -> str:
    """Parse a code of `BASES`. A command that an earlier version sent may wait with the text that was its default."""
    if value == _EARLIER_DEFAULT_BASIS:
        return DEFAULT_BASIS
    if not isinstance(value, str) or value not in BASES:
        raise InvalidInput("basis", f"must be one of {', '.join(BASES)}")
    return value


def basis_of_text(text: object) -> str:
    """The code for a basis that an earlier version stored as free text. `other` is no code that a caller can give."""
    return DEFAULT_BASIS if text == _EARLIER_DEFAULT_BASIS else "other"


def parse_user_id(value: object) -> int:
    return parse_id(value, field="user_id")


UserId = Annotated[int, Input(parse_user_id, "The user's id.", "ID", "252562058352301107")]
Email = Annotated[Personal, Input(parse_email, "E-mail address", "EMAIL", "ada@example.com")]
Name = Annotated[Personal, Input(parse_name, "Name", "NAME", "Ada Lovelace")]


@dataclass(frozen=True, slots=True)
class RegisterUser(Command):
    """Register a user."""

    user_id: int
    email: Email
    name: Name
    reservation_id: UUID | None = None
    wire: ClassVar[str] = "register-user"
    request: ClassVar[str] = "users.create"
    creates: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class RenameUser(Command):
    """Rename a user."""

    user_id: UserId
    name: Name
    wire: ClassVar[str] = "rename-user"
    request: ClassVar[str] = "users.rename"
    done: ClassVar[str] = "renamed user {user_id}"


@dataclass(frozen=True, slots=True)
class ChangeEmail(Command):
    """Change a user's e-mail address."""

    user_id: UserId
    email: Email
    reservation_id: UUID | None = None
    wire: ClassVar[str] = "change-email"
    request: ClassVar[str] = "users.change-email"
    done: ClassVar[str] = "changed the e-mail address of user {user_id}"


@dataclass(frozen=True, slots=True)
class DeleteUser(Command):
    """Close an account. Its data stays until `es gdpr erase`."""

    user_id: UserId
    wire: ClassVar[str] = "delete-user"
    reads: ClassVar[bool] = False
    request: ClassVar[str] = "users.delete"
    done: ClassVar[str] = "deleted user {user_id}; the data stays until `es gdpr erase {user_id}`"
    question: ClassVar[str] = "Close this account for good?"


@dataclass(frozen=True, slots=True)
class EraseUser(Command):
    """Erase a person. `es gdpr erase` sends it and waits until the key is destroyed."""

    user_id: UserId
    basis: Annotated[str, Input(parse_basis, "The code of the reason.", "CODE", DEFAULT_BASIS)]
    is_known: bool = False
    """Whether the vault knows the person. Then no event is needed: the stream may be deleted, truncated or damaged."""
    wire: ClassVar[str] = "erase-user"
    reads: ClassVar[bool] = False
    request: ClassVar[str] = "users.erase"
    in_group: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class CompleteErasure(Command):
    """Sent by `erasures` after the data key was destroyed and `letters` dead letters of the person were removed."""

    user_id: int
    letters: int
    wire: ClassVar[str] = "complete-erasure"
    reads: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class AbandonReservation(Command):
    """Sent by the janitor for an expired reservation."""

    user_id: int
    reservation_id: UUID
    wire: ClassVar[str] = "abandon-reservation"


UserCommand = (
    RegisterUser | RenameUser | ChangeEmail | DeleteUser | EraseUser | CompleteErasure | AbandonReservation
)
COMMANDS: tuple[type[Command], ...] = (
    RegisterUser,
    RenameUser,
    ChangeEmail,
    DeleteUser,
    EraseUser,
    CompleteErasure,
    AbandonReservation,
)
