"""User accounts: register, rename, change the e-mail address, delete, erase.

Promise: an account's whole life is the fold of its stream `user-<id>`. Personal data of a person is
only ever in that stream. Refusal: nothing here reads a clock, draws a number or knows a key.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from domain.kernel.errors import InvalidInput
from domain.kernel.ids import parse_id
from domain.kernel.personal import Personal

NAME_MAX_CHARACTERS = 200
EMAIL_MAX_CHARACTERS = 254  # RFC 5321 §4.5.3.1.3, less the angle brackets
EMAIL_LOCAL_MAX_CHARACTERS = 64  # RFC 5321 §4.5.3.1.1
BASIS_MAX_CHARACTERS = 200

_EMAIL = re.compile(r"[^\s@\"(),:;<>\[\\\]]+@[^\s@.\"(),:;<>\[\\\]]+(\.[^\s@.\"(),:;<>\[\\\]]+)+")
_UNPRINTABLE = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
_INVISIBLE = frozenset({"Cf", "Zs"})
_BIDI_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _text(field: str, value: object, limit: int) -> str:
    """One line of printable text in NFC, 1 to `limit` characters after trimming."""
    if not isinstance(value, str):
        raise InvalidInput(field, "must be text")
    if len(value) > 8 * limit:  # don't normalise megabytes only to refuse them
        raise InvalidInput(field, f"is longer than {limit} characters")
    if not value.isprintable():  # most text is; what isn't may still be allowed, such as a joiner in a name
        _refuse_unprintable(field, value)
    text = unicodedata.normalize("NFC", value).strip()
    if not text:
        raise InvalidInput(field, "is empty")
    if len(text) > limit:
        raise InvalidInput(field, f"is longer than {limit} characters")
    return text


def _refuse_unprintable(field: str, value: str) -> None:
    for character in value:
        category = unicodedata.category(character)
        if category == "Cs":
            raise InvalidInput(field, "contains a lone surrogate, which is not text")
        if category in _UNPRINTABLE or character in _BIDI_OVERRIDES:
            raise InvalidInput(field, "contains a control or unprintable character")
    if all(unicodedata.category(character) in _INVISIBLE for character in value):
        raise InvalidInput(field, "is empty")


def parse_name(value: object) -> Personal:
    return Personal(_text("name", value, NAME_MAX_CHARACTERS))


def parse_email(value: object) -> Personal:
    """An address in the one form in which it is stored and compared: NFC, trimmed, lower case."""
    # Lower case can undo the NFC form and grow: "J\u030c" becomes what NFC writes as one letter.
    text = unicodedata.normalize("NFC", _text("email", value, EMAIL_MAX_CHARACTERS).lower())
    if len(text) > EMAIL_MAX_CHARACTERS:
        raise InvalidInput("email", f"is longer than {EMAIL_MAX_CHARACTERS} characters")
    if not _EMAIL.fullmatch(text) or ".." in text or text.startswith(".") or ".@" in text:
        raise InvalidInput("email", "is not an e-mail address like ada@example.com")
    if not text.isprintable():  # or two addresses would look like one
        raise InvalidInput("email", "contains an invisible character")
    if len(text.partition("@")[0]) > EMAIL_LOCAL_MAX_CHARACTERS:
        raise InvalidInput("email", f"has more than {EMAIL_LOCAL_MAX_CHARACTERS} characters before the @")
    return Personal(text)


def parse_basis(value: object) -> str:
    return _text("basis", value, BASIS_MAX_CHARACTERS)


def parse_user_id(value: object) -> int:
    return parse_id(value, field="user_id")


@dataclass(frozen=True, slots=True)
class RegisterUser:
    user_id: int
    email: Personal
    name: Personal
    reservation_id: UUID | None = None
    wire: ClassVar[str] = "register-user"


@dataclass(frozen=True, slots=True)
class RenameUser:
    user_id: int
    name: Personal
    wire: ClassVar[str] = "rename-user"


@dataclass(frozen=True, slots=True)
class ChangeEmail:
    user_id: int
    email: Personal
    reservation_id: UUID | None = None
    wire: ClassVar[str] = "change-email"


@dataclass(frozen=True, slots=True)
class DeleteUser:
    user_id: int
    wire: ClassVar[str] = "delete-user"


@dataclass(frozen=True, slots=True)
class EraseUser:
    user_id: int
    basis: str
    wire: ClassVar[str] = "erase-user"


@dataclass(frozen=True, slots=True)
class CompleteErasure:
    user_id: int
    wire: ClassVar[str] = "complete-erasure"


@dataclass(frozen=True, slots=True)
class AbandonReservation:
    """Issued by the janitor for an expired reservation; a user never asks for it."""

    user_id: int
    reservation_id: UUID
    wire: ClassVar[str] = "abandon-reservation"


Command = (
    RegisterUser | RenameUser | ChangeEmail | DeleteUser | EraseUser | CompleteErasure | AbandonReservation
)
