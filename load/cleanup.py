"""Delete or erase the users that a run created.

Promise: users of others stay as they are: only those whose first event has a command id of the run are removed. It is safe
to repeat: a user that is deleted or erased already counts as done. Refusal: nothing but users is removed; other services have no common command
for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from domain.users.commands import DEFAULT_BASIS
from es.client import Answer, Client, Failure
from load.effects import CLEANUP_ACTOR
from load.ledger import opened, patient
from load.scratch import Progress, Scratch

if TYPE_CHECKING:
    from adapters.settings import Settings

_USERS = "SELECT instance FROM created WHERE prefix = 'user-' AND kind = 'users.create'"
_IS_OWN = "SELECT COUNT(*) FROM created WHERE prefix = 'user-' AND kind = 'users.create' AND instance = ?"
_CHUNK = 10_000
_PAGE = 1000
_STALLED_S = 60.0
"""How long a number of owed erasures that does not fall is waited for: the cleaning goes in batches of 256 persons."""
_POLL_S = 0.5


@dataclass(slots=True)
class Cleaned:
    users: int = 0
    """The users that the run created, also by commands without an answer."""
    done: int = 0
    """Those that are deleted or erased now."""
    errors: dict[str, int] = field(default_factory=dict)
    """The commands that failed, by code. A repeated clean-up tries them again."""
    owed: int = 0
    """Erasures that are decided and not completed yet. `erasures` goes on with them: `es gdpr status`."""

    @property
    def is_complete(self) -> bool:
        return not (self.errors or self.owed)


def cleanup(
    settings: Settings,
    journals: Sequence[Path],
    *,
    since_position: str,
    erase: bool,
    on_progress: Progress = lambda step, done: None,
) -> Cleaned:
    """Delete the users of the journals, or erase them and wait until their keys are destroyed.

    Raises InvalidJournal, and Unavailable if the workers cannot answer queries for 300 s.
    """
    found = Cleaned()
    with (
        Client(settings=settings, actor=CLEANUP_ACTOR) as client,
        opened(patient(client, on_progress), journals, since_position, on_progress) as (scratch, _),
    ):
        users = (user_id for (user_id,) in scratch.rows(_USERS))
        while chunk := list(islice(users, _CHUNK)):
            _remove(client, chunk, found, erase=erase)
            on_progress("users", found.users)
        if erase:
            found.owed = _wait_for_erasures(lambda: _owed(scratch, client), on_progress)
    return found


def _remove(client: Client, users: Sequence[int], found: Cleaned, *, erase: bool) -> None:
    basis = {"basis": DEFAULT_BASIS} if erase else {}
    kind = "users.erase" if erase else "users.delete"
    commands = [(kind, {"user_id": str(user_id), **basis}) for user_id in users]
    for reply in client.send_many(commands):
        found.users += 1
        if isinstance(reply, Answer) or _is_gone(reply):
            found.done += 1
        else:
            found.errors[reply.code] = found.errors.get(reply.code, 0) + 1


def _is_gone(reply: Failure) -> bool:
    """Whether nothing is left to delete: the user is erased, or its event was lost."""
    return reply.code in ("user-erased", "user-not-found")


def _owed(scratch: Scratch, client: Client) -> int:
    """The number of erasures of the run's users that are owed."""
    count, following = 0, {"limit": _PAGE}
    while following is not None:
        page = client.ask("erasures.owed", following, role="erasures")
        for row in page["owed"]:
            count += scratch.number(_IS_OWN, int(row["user_id"]))
        following = page["next"] and {"limit": _PAGE, "after": int(page["next"]["after"])}
    return count


def _wait_for_erasures(owed: Callable[[], int], on_progress: Progress) -> int:
    """Wait until no erasure is owed, or their number has not fallen for 60 s. Return their number."""
    left, since_s = owed(), time.monotonic()
    while left and time.monotonic() - since_s < _STALLED_S:
        time.sleep(_POLL_S)
        now = owed()
        on_progress("owed erasures", now)
        if now < left:
            left, since_s = now, time.monotonic()
    return left
