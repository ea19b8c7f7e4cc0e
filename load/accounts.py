"""What the read model must show of a user: the fold of the stream's events with the inputs of the run's commands.

Stored events are shown with sealed personal fields, so the values come from the journal: from the command of each event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from json import loads
from typing import Any

from domain.kernel.errors import InvalidInput
from domain.kernel.personal import Personal
from domain.users.commands import parse_email, parse_name

UNKNOWN = "\0unknown"
"""A value that a command of another sender set. It is compared with nothing."""

EVENT_OF = {
    "users.create": "user-registered.v1",
    "users.rename": "user-renamed.v1",
    "users.change-email": "user-email-changed.v1",
    "users.delete": "user-deleted.v1",
    "users.erase": "user-erased.v2",
}
"""The only event that each command of users appends."""


@dataclass(slots=True)
class Account:
    email: str | None = None
    name: str | None = None
    status: str = ""
    version: int = -1

    def apply(self, version: int, type_: str, given: str | None) -> None:
        """Fold one event. `given` is the input of its command as JSON; None if it is not in the journals."""
        self.version = version
        values: Mapping[str, Any] = loads(given) if given else {}
        match type_:
            case "user-registered.v1":
                self.email, self.name = _email(values), _name(values)
                self.status = "active"
            case "user-renamed.v1":
                self.name = _name(values)
            case "user-email-changed.v1":
                self.email = _email(values)
            case "user-deleted.v1":
                self.status = "deleted"
            case "user-erased.v2":
                self.email = self.name = None
                self.status = "erased"

    def differs_from(self, row: Mapping[str, Any]) -> list[str]:
        """The fields in which a row of `users.get` is another account. Values are not named: they are personal data."""
        own = {"email": self.email, "name": self.name, "status": self.status, "version": self.version}
        return [field for field, value in own.items() if value not in (UNKNOWN, row.get(field))]

    def has(self, kind: str, given: str) -> bool:
        """Whether a command with this input has nothing to change."""
        values = loads(given)
        match kind:
            case "users.rename":
                return self.name in (UNKNOWN, _name(values))
            case "users.change-email":
                return self.email in (UNKNOWN, _email(values))
            case "users.delete":
                return self.status == "deleted"
            case "users.erase":
                return self.status == "erased"
        return False


def folded(events: Iterable[tuple[int, str, str | None]]) -> Account:
    """The account after events: version, type and input of each."""
    account = Account()
    for event in events:
        account.apply(*event)
    return account


def _email(values: Mapping[str, Any]) -> str:
    return _parsed(parse_email, values.get("email"))


def _name(values: Mapping[str, Any]) -> str:
    return _parsed(parse_name, values.get("name"))


def _parsed(parse: Callable[[object], Personal], value: object) -> str:
    """A value in the form in which it is stored: an address in lower case, for example."""
    try:
        return parse(value).value
    except InvalidInput:
        return UNKNOWN
