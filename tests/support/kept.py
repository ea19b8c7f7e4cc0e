"""A run as its journal tells it, and what a made-up system kept of it: a test stores what the ledger must find."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import es
from domain.kernel.messages import Body
from load.ledger import check_with
from load.results import Ledger

AT_US = 1_700_000_000_000_000
USER = 7 * 1024
"""The id of a user."""
_COMMANDS = {
    "users.create": ("register-user", "user-registered.v1"),
    "users.rename": ("rename-user", "user-renamed.v1"),
    "users.change-email": ("change-email", "user-email-changed.v1"),
    "users.delete": ("delete-user", "user-deleted.v1"),
    "users.erase": ("erase-user", "user-erased.v2"),
}


class Sent(NamedTuple):
    """A request in the journal."""

    n: int
    id: str | None
    kind: str
    input: Mapping[str, str]


class Journal:
    """Writes the journal of one load process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at_us = AT_US
        self._count = 0
        path.touch(0o600)

    def send(self, kind: str, /, **given: str) -> Sent:
        sent = Sent(self._count, None if kind.startswith("ids.") else es.new_command_id(), kind, given)
        self._count += 1
        operation = kind.partition(".")[2]
        self.write(
            {"n": sent.n, "op": operation, "kind": kind, "id": sent.id, "at": self.at_us, "in": dict(given)}
        )
        return sent

    def accept(self, sent: Sent, reply: Mapping[str, Any]) -> None:
        self.write({"n": sent.n, "us": 900, "ok": reply})

    def fail(self, sent: Sent, code: str, kind: str) -> None:
        self.write({"n": sent.n, "us": 900, "error": code, "kind": kind})

    def write(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass
class Kept:
    """The events and rows of a made-up system, as its queries show them."""

    folder: Path
    events: list[Body] = field(default_factory=list)
    rows: dict[int, Body] = field(default_factory=dict)
    others: dict[str, Body] = field(default_factory=dict)
    """Rows of another service, by key."""

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder / "1.ndjson")
        self.journals = [self.journal]

    # --- store and answer ----------------------------------------------------------------------

    def store(
        self,
        stream: str,
        type_: str,
        command_id: str | None,
        *,
        command: str = "register-user",
        actor: str = "load",
    ) -> Body:
        version = sum(event["stream"] == stream for event in self.events)
        event = {
            "position": 10 + 3 * len(self.events),
            "stream": stream,
            "version": version,
            "type": type_,
            "command": command,
            "command_id": command_id,
            "actor": actor,
        }
        self.events.append(event)
        return event

    def keep(self, sent: Sent, user_id: int) -> Body:
        """Store the event of a command of users, as a healthy system does, and change the row."""
        command, type_ = _COMMANDS[sent.kind]
        event = self.store(f"user-{user_id}", type_, sent.id, command=command)
        row = self.rows.setdefault(user_id, {"user_id": str(user_id), "status": "active"})
        row.update({name: value for name, value in sent.input.items() if name != "user_id"})
        row["version"] = event["version"]
        if sent.kind == "users.delete":
            row["status"] = "deleted"
        if sent.kind == "users.erase":
            row.update(status="erased", email=None, name=None)
        return event

    def answer(self, sent: Sent, event: Mapping[str, Any], **changed: object) -> None:
        """Answer with the version and position of an event."""
        field, _, instance = event["stream"].rpartition("-")
        said = {"version": event["version"], "position": event["position"]}
        self.journal.accept(sent, {"command_id": sent.id, f"{field}_id": instance, **said, **changed})

    def create(self, user_id: int, email: str = "ada@example.com", name: str = "Ada") -> Body:
        """Register a user as a healthy system does."""
        sent = self.journal.send("users.create", email=email, name=name)
        event = self.keep(sent, user_id)
        self.answer(sent, event)
        return event

    def change(self, verb: str, user_id: int, **given: str) -> Body:
        """Change a user as a healthy system does."""
        sent = self.journal.send(f"users.{verb}", user_id=str(user_id), **given)
        event = self.keep(sent, user_id)
        self.answer(sent, event)
        return event

    def give(self, first: int, count: int = 1) -> None:
        """Answer a request for ids."""
        sent = self.journal.send("ids.next", count=str(count))
        self.journal.accept(sent, {"ranges": [{"first": str(first), "step": 1024, "count": count}]})

    # --- queries -------------------------------------------------------------------------------

    def check(self) -> Ledger:
        paths = [journal.path for journal in self.journals]
        return check_with(self.ask, paths, since_position="5", on_progress=lambda step, done: None)

    def reasons(self) -> list[tuple[str, str]]:
        """The kind of each finding, and why."""
        return [(found["kind"], found["why"]) for found in self.check().findings]

    def ask(self, kind: str, body: Mapping[str, Any]) -> Body:
        match kind:
            case "events.read":
                return self._events(body)
            case "users.list":
                return self._users(body)
        if body["key"] not in self.others:
            raise es.NotFound("not-found", es.Kind.NOT_FOUND, "no row", "")
        return self.others[body["key"]]

    def _events(self, body: Mapping[str, Any]) -> Body:
        head = self.events[-1]["position"] if self.events else 5
        if body.get("from_end"):
            return {"events": [], "position": head}
        later = [event for event in self.events if event["position"] > body["after_position"]]
        shown = later[: min(body["limit"], 4)]  # small pages, as those with large events
        return {"events": shown, "position": shown[-1]["position"] if len(shown) < len(later) else head}

    def _users(self, body: Mapping[str, Any]) -> Body:
        after = int(body.get("after") or 0)
        later = [row for user_id, row in sorted(self.rows.items()) if user_id > after]
        following = {"after": later[2]["user_id"]} if len(later) > 3 else None
        return {"users": later[:3], "next": following}
