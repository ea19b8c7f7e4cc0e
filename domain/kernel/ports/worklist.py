"""The worklist of process managers: which instances are open, when to look at each, and how far the store was read.

It is derived: the streams of the instances are the truth. If the list is lost or an older copy of it is restored, the store
is read again from its checkpoint, and each instance finds in its stream what was noted, answered and ended already.

Each docstring is a contract, and `tests/contract` tests every sentence over every adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from domain.kernel.events import BEGINNING, Position
from domain.kernel.history import History
from domain.kernel.ports.identity import Identified


@dataclass(frozen=True, slots=True)
class Opening:
    """An instance that an event concerns. Its stream holds the event already, unless `held` says why it does not.

    A held event waits at `position` until the quarantine of its instance ends.
    """

    instance: int
    position: Position
    held: str = ""


def openings_by_instance(openings: Sequence[Opening]) -> dict[int, str]:
    """The instances in order, each with why its first held event is held; with an empty text if none is."""
    errors: dict[int, str] = {}
    for opening in openings:
        errors[opening.instance] = errors.get(opening.instance) or opening.held
    return errors


@dataclass(frozen=True, slots=True)
class OpenInstance:
    """An instance that has not ended.

    `due_us` is when to look at it (UTC microseconds); None: not before another event concerns it, or `retry`.
    `revision` changes with everything that happens to it in the list. `error` is why it is in quarantine. `held` is the number of
    events that wait for the end of the quarantine. `attempts` and `waits_for` tell of a command without an answer.
    """

    process: str
    instance: int
    revision: int
    opened_at_us: int
    due_us: int | None
    attempts: int
    waits_for: str
    error: str
    held: int


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at an open instance led to. `revision` is that of the `OpenInstance` that was looked at.

    Look again at `due_us`, or (None) not before another event, or never because it `ended`. `error` puts it into quarantine.
    `attempts` counts the looks since a command got no answer, `waits_for` is the reason. `released` are held events that its
    stream holds now, or that concern it no more.
    """

    instance: int
    revision: int
    due_us: int | None = None
    ended: bool = False
    error: str = ""
    attempts: int = 0
    waits_for: str = ""
    released: Sequence[Position] = ()


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much a process has open, each number up to the given limit, and the earliest due time."""

    open: int
    quarantined: int
    earliest_due_us: int | None


class Worklist(Identified, Protocol):
    """Open instances and checkpoints of process managers. Any method raises `PartUnavailable` in an outage."""

    def open_instances(
        self,
        process: str,
        openings: Sequence[Opening],
        *,
        reached: History,
        since: Position = BEGINNING,
        now_us: int,
    ) -> None:
        """List instances as due at once, and move the checkpoint to `reached`: in one durable transaction.

        An instance that is listed already becomes due at once, and keeps its `opened_at_us`. A held event is kept once, and
        puts its instance into quarantine; one that is in quarantine stays there, keeps its error, and does not become due.
        Raises `PartUnavailable`, and lists nothing, unless the checkpoint is at `since`: otherwise another manager moved it,
        or an older copy was restored.
        """
        ...

    def quarantined(self, process: str, instances: Sequence[int]) -> Mapping[int, str]:
        """Of these instances, those in quarantine, with the error."""
        ...

    def due(self, process: str, *, now_us: int, limit: int) -> list[OpenInstance]:
        """At most `limit` instances that are due, the longest due first. It costs the same in a long list.

        One in quarantine is due after `retry` only.
        """
        ...

    def next_due_us(self, process: str) -> int | None:
        """The earliest `due_us` of all instances; None without one. It costs the same in a long list."""
        ...

    def looked(self, process: str, looks: Sequence[Look]) -> None:
        """Keep what looks led to, in one durable transaction. An ended instance is removed.

        The events that are `released` are held no more. Without `error` the quarantine ends; while events are held the instance
        stays in quarantine, due at once. An instance with another `revision` was opened or looked at meanwhile: nothing of the
        look is kept but what is released, and it becomes due at once, unless it is in quarantine. A missing one stays missing.
        """
        ...

    def instances(
        self, *, after: tuple[str, int] | None = None, quarantined: bool = False, limit: int
    ) -> list[OpenInstance]:
        """At most `limit` open instances after (process, instance), in this order; with `quarantined` only those."""
        ...

    def instance(self, process: str, instance: int) -> OpenInstance | None:
        """One open instance."""
        ...

    def held(self, process: str, instance: int, *, limit: int) -> list[Position]:
        """At most `limit` held events of an instance, in order."""
        ...

    def retry(self, process: str, instance: int, *, now_us: int) -> bool:
        """Make an instance due at once, also in quarantine, which it does not leave by this. False without such an instance."""
        ...

    def backlog(self, process: str, *, limit: int) -> Backlog:
        """What a process has open."""
        ...

    def take_lease(self, process: str, owner: str, *, now_us: int, lease_us: int) -> bool:
        """Whether `owner` holds the lease of a process from now on for `lease_us`: it had it, or it was free or over.

        It keeps two managers from doing the same work. No promise of a process relies on it.
        """
        ...

    def release_lease(self, process: str, owner: str) -> None:
        """Free the lease if `owner` has it."""
        ...

    # --- checkpoints, as those of the vault ----------------------------------------------------------

    def checkpoint(self, process: str) -> History:
        """The checkpoint of a process; without one the beginning."""
        ...

    def save_checkpoint(self, process: str, reached: History, *, since: Position = BEGINNING) -> None:
        """Move a checkpoint, never backwards. Raises `PartUnavailable`, and saves nothing, if the stored one lies before
        `since`: the list was restored from an older copy."""
        ...

    def rewind_checkpoint(self, process: str, reached: History, *, now_us: int) -> None:
        """Move a checkpoint back, never forwards, because the store has another history."""
        ...

    def close(self) -> None:
        """Release all resources. A second call does nothing."""
        ...
