"""The errors of user accounts."""

from __future__ import annotations

from domain.kernel.errors import EsError, Kind, Refusal


class EmailReserved(Refusal):
    """Rule: a reserved e-mail address waits for the command that reserved it, 60 s at most."""

    code = "email-reserved"
    hint = "If it was your command, retry it with its command id; otherwise retry in a minute."

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
    hint = "Find the id with `es users list` or `es users find --email -`."

    def __str__(self) -> str:
        return f"there is no user {self.user_id}"


class NotYetThen(EsError):
    """A query asks for a user at a time before the registration, or at a version after the last one."""

    user_id: int
    last_version: int
    code = "not-yet-then"
    kind = Kind.NOT_FOUND
    hint = "`es users history` lists the versions with their times."

    def __str__(self) -> str:
        return f"user {self.user_id} did not exist at that time or version: its versions are 0 to {self.last_version}"


class NoUserWithEmail(EsError):
    """No active user has this e-mail address; deleted and erased users do not count. The message omits the address."""

    code = "user-not-found"
    kind = Kind.NOT_FOUND
    hint = "Check the address. Deleted and erased users cannot be found by it."

    def __str__(self) -> str:
        return "no user has that e-mail address"


class UserIsDeleted(Refusal):
    """Rule: a deleted account changes no more, but it can be erased."""

    user_id: int
    code = "user-deleted"
    hint = "The account is closed; register a new user instead."

    def __str__(self) -> str:
        return f"user {self.user_id} is deleted"


class UserIsErased(Refusal):
    """Rule: an erased account changes no more."""

    user_id: int
    code = "user-erased"
    hint = "An erasure is final; register a new user instead."

    def __str__(self) -> str:
        return f"user {self.user_id} is erased"


class ReservationLost(Refusal):
    """The reservation of a command was released before its event was stored: reserve and decide again.

    The `users` worker does so itself. A caller gets this error only after several attempts.
    """

    code = "reservation-lost"
    kind = Kind.UNAVAILABLE
    hint = "Retry with the same `--command-id`."

    def __str__(self) -> str:
        return "the e-mail reservation of this command expired before it was used"
