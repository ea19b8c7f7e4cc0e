"""Every error this system can answer with: a name, its fields, and what to do next.

An error is a value first (`decide` *returns* a refusal) and an exception where a call can't go on.
Messages never contain personal data: they travel into logs and dead letters.
"""

from __future__ import annotations

from domain.kernel.errors import EsError, Kind, Refusal


class EmailReserved(Refusal):
    """Rule: an address waits for the command that reserved it, which may be under way or may have broken off."""

    code = "email-reserved"
    hint = "If it was yours, repeat it with its command id; or repeat this one in a minute."

    def __str__(self) -> str:
        return "the e-mail address is reserved by a command that has not finished"


class EmailTaken(Refusal):
    """Rule: an e-mail address belongs to one user that is not deleted."""

    code = "email-taken"
    hint = "Use another address, or find its user with `es users find --email -`."

    def __str__(self) -> str:
        return "the e-mail address is taken by another user"


class UserNotFound(EsError):
    user_id: int
    code = "user-not-found"
    kind = Kind.NOT_FOUND
    hint = "Look the id up with `es users list` or `es users find --email -`."

    def __str__(self) -> str:
        return f"there is no user {self.user_id}"


class NotYetThen(EsError):
    """Somebody asked for an account as it was before or after all that its stream tells of it."""

    user_id: int
    last_version: int
    code = "not-yet-then"
    kind = Kind.NOT_FOUND
    hint = "`es users history` lists its versions with their times."

    def __str__(self) -> str:
        return f"user {self.user_id} is not known as of then: its versions are 0 to {self.last_version}"


class NoUserWithEmail(EsError):
    """Nobody who is not deleted has the address that was asked for; the address is not repeated."""

    code = "user-not-found"
    kind = Kind.NOT_FOUND
    hint = "Check the address; deleted and erased users cannot be found by it."

    def __str__(self) -> str:
        return "no user has that e-mail address"


class UserIsDeleted(Refusal):
    """Rule: a deleted account doesn't change any more (it can still be erased)."""

    user_id: int
    code = "user-deleted"
    hint = "The account is closed; register a new user instead."

    def __str__(self) -> str:
        return f"user {self.user_id} is deleted"


class UserIsErased(Refusal):
    """Rule: nothing happens to a person after the erasure."""

    user_id: int
    code = "user-erased"
    hint = "An erasure is final; register a new user instead."

    def __str__(self) -> str:
        return f"user {self.user_id} is erased"


class ReservationLost(Refusal):
    """The e-mail reservation behind a command is gone: reserve again, then decide again.

    Internal to the handling of a command; a caller sees it only when several tries in a row failed.
    """

    code = "reservation-lost"
    kind = Kind.UNAVAILABLE
    hint = "Repeat the command with the same command id."

    def __str__(self) -> str:
        return "the e-mail reservation of this command expired before it was used"
