"""Questions before a command that cannot be undone, with the person or row that it is about.

Promise: the question is asked although its subject cannot be read. Refusal: nothing is read or asked without a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cli import session
from domain.kernel.errors import EsError

Describe = Callable[[Mapping[str, Any]], str]
"""Who or what a command with these inputs is about. May raise EsError."""
_READ_WAIT_S = 3.0


def ask_on_terminal(question: str, *, yes: bool, about: Callable[[], str]) -> None:
    """Ask for confirmation on a terminal. Without one go ahead: shell scripts cannot answer. Raises NotConfirmed."""
    if session.is_interactive() and not yes:
        introduce(about, yes=yes)
        session.ask_first(question, because="", yes=yes)


def introduce(about: Callable[[], str], *, yes: bool) -> None:
    """Say on a terminal who or what the following question is about."""
    if yes or not session.is_interactive():
        return
    try:
        session.note(about())
    except EsError as error:
        session.note(f"the subject of this question cannot be shown: {error}")


def person(inputs: Mapping[str, Any]) -> str:
    """A user's name and address."""
    user_id = inputs["user_id"]
    user = session.ask("projections", "users.get", {"user_id": user_id}, timeout_s=_READ_WAIT_S)
    if user["email"] is None and user["name"] is None:
        return f"user {user_id} is {user['status']}, without name and address"
    return f"user {user_id} is {user['name']} <{user['email']}>, {user['status']}"


def row(kind: str, key: str) -> Describe:
    """For a feature with rows of its own: the row of the projection with the feature's name."""

    def described(inputs: Mapping[str, Any]) -> str:
        if key not in inputs:  # a command of another aggregate of the feature
            return ", ".join(f"{name} {value}" for name, value in inputs.items())
        found = session.ask("projections", kind, {"key": inputs[key]}, timeout_s=_READ_WAIT_S)
        return ", ".join(f"{name} {value}" for name, value in found.items())

    return described
