"""Answers with values that cannot be read: they are printed all the same, and then the command fails."""

from __future__ import annotations

from collections.abc import Sequence

from cli import render
from domain.kernel.errors import EsError, Kind
from domain.kernel.messages import Body


class Unreadable(EsError):
    """An answer about one user was printed with a value that cannot be read."""

    what: str
    field: str
    reason: str
    code = "unreadable"
    kind = Kind.DAMAGED
    hint = 'See "Unreadable data" in docs/operations.md. `es gdpr erase` works on such a user too.'

    def __str__(self) -> str:
        return f"{self.field} of {self.what} cannot be read: {self.reason}"


def need_readable(shown: Body, what: str) -> None:
    """Raise Unreadable if some of the answer could not be read. The answer was printed all the same."""
    for field, reason in (shown.get("unreadable") or {}).items():
        raise Unreadable(what, field, reason)


def show_history(events: Sequence[Body], what: str, *, as_json: bool) -> None:
    """Print every event of an instance, as lines on a terminal. Raises Unreadable after that."""
    if render.is_terminal():
        for event in events:
            render.event(event, as_json=as_json)
    else:
        columns = ["version", "time", "event", "data", "command", "command id", "actor"]
        render.rows(events if as_json else map(_event_shown, events), columns, as_json=as_json)
    for event in events:
        need_readable(event, f"event {event['version']} of {what}")


def _event_shown(event: Body) -> Body:
    data = {
        name: "(erased)" if value is None else value for name, value in render.with_reasons(event).items()
    }
    return {
        **event,
        "event": event["type"],
        "data": ", ".join(f"{name}={value}" for name, value in data.items()),
        "command id": event["command_id"],
    }
