"""Judge each command of a run by its stored events.

An accepted command has one effect: its events are one append, in consecutive versions of one stream that end at the version of
the answer. An unanswered one has at most one, a refused one none. Ids are given once.

What is no effect: events of the kernel, which change no state, and work that follows from a command under an id of its own
(erasures, claims, the commands of processes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

from domain.kernel.ids import STEP
from load.accounts import EVENT_OF, folded
from load.results import Ledger
from load.scratch import ACCEPTED, KERNEL, REFUSED, UNANSWERED, Progress, Scratch

CLEANUP_ACTOR = "load-cleanup"
"""The sender of commands that remove the users of a run. They are in no journal."""

EXAMPLES = 100
"""The number of findings that a ledger keeps."""
EventAt = Callable[[int], Mapping[str, Any] | None]
"""The stored event at a position before the run, as `events.read` shows it."""

_COMMANDS_WITH_EVENTS = f"""
SELECT c.id, c.operation, c.kind, c.outcome, c.id_field, c.instance, c.version, c.position, c.input, c.journal, c.answered,
    e.prefix, e.instance, e.version, e.type, e.command
FROM commands c LEFT JOIN events e ON e.command_id = c.id AND e.type NOT IN ({KERNEL})
WHERE c.id IS NOT NULL ORDER BY c.journal, c.n
"""  # noqa: S608  # names of event types of this program
_WITHOUT_COMMAND = f"""
SELECT e.prefix, e.instance, e.version, e.command, e.command_id
FROM created s CROSS JOIN events e ON e.prefix = s.prefix AND e.instance = s.instance
LEFT JOIN commands c ON c.id = e.command_id
WHERE c.id IS NULL AND e.type NOT IN ({KERNEL}) AND e.actor <> '{CLEANUP_ACTOR}' AND e.actor NOT LIKE 'process:%'
"""  # noqa: S608
_HISTORY = """
SELECT e.version, e.type, c.input FROM events e LEFT JOIN commands c ON c.id = e.command_id
WHERE e.prefix = 'user-' AND e.instance = ? AND e.version <= ? ORDER BY e.version
"""
_AT = """
SELECT e.prefix, e.instance, e.version, c.journal, c.line
FROM events e LEFT JOIN commands c ON c.id = e.command_id WHERE e.position = ?
"""
_DRAWN = f"""
SELECT instance % {STEP}, {STEP}, instance / {STEP}, 1, journal, n FROM commands
WHERE outcome = {ACCEPTED} AND id_field IS NOT NULL AND instr(id_fields, ',' || id_field || ',') = 0
UNION ALL
SELECT e.instance % {STEP}, {STEP}, e.instance / {STEP}, 1, c.journal, c.n
FROM commands c JOIN events e ON e.command_id = c.id AND e.version = 0 AND e.instance IS NOT NULL
WHERE c.outcome = {UNANSWERED} AND c.id_fields = ',,'
"""  # noqa: S608
_GIVEN = f"SELECT lane, step, first, count, journal, n FROM issued UNION ALL {_DRAWN} ORDER BY 2, 1, 3"  # noqa: S608


class Command(NamedTuple):
    id: bytes
    operation: str
    kind: str
    outcome: int
    id_field: str | None
    instance: int | None
    version: int | None
    position: int | None
    input: str | None
    journal: int
    answered: int | None
    """The line of its reply."""


class Stored(NamedTuple):
    """An event of a command."""

    prefix: str
    instance: int | None
    version: int
    type: str
    command: str | None

    @property
    def stream(self) -> str:
        return self.prefix if self.instance is None else f"{self.prefix}{self.instance}"


class Judge:
    """Counts into a ledger. `event_at` reads an event from before the run."""

    def __init__(self, scratch: Scratch, ledger: Ledger, event_at: EventAt) -> None:
        self._scratch = scratch
        self._ledger = ledger
        self._event_at = event_at
        self._commands: set[str] = set()
        """The wire names of the run's commands."""

    def judge(self, on_progress: Progress) -> None:
        ledger = self._ledger
        for command, events in self._pairs():
            ledger.commands += 1
            ledger.accepted += command.outcome == ACCEPTED
            ledger.refused += command.outcome == REFUSED
            if command.outcome == UNANSWERED:
                ledger.unanswered += 1
                ledger.unanswered_carried_out += bool(events)
            self._commands.update(event.command for event in events if event.command)
            if ledger.commands % 10_000 == 0:
                on_progress("commands", ledger.commands)
            if found := self._verdict(command, events):
                kind, why = found
                stream = events[0].stream if events else self._named(command)
                note(ledger, kind, why, command_id=command.id, operation=command.operation, stream=stream)
        on_progress("commands", ledger.commands)
        self._find_effects_without_a_command()
        self._find_shared_ids()

    def _pairs(self) -> Iterator[tuple[Command, list[Stored]]]:
        rows = self._scratch.rows(_COMMANDS_WITH_EVENTS)
        for _, group in groupby(rows, key=lambda row: row[0]):
            found = list(group)
            command = Command(*found[0][: len(Command._fields)])
            events = [Stored(*row[len(Command._fields) :]) for row in found if row[-2] is not None]
            yield command, sorted(events, key=lambda event: (event.stream, event.version))

    # --- one command ---------------------------------------------------------------------------

    def _verdict(self, command: Command, events: Sequence[Stored]) -> tuple[str, str] | None:
        """What is wrong with the effect of a command: the kind of finding and the reason."""
        if command.outcome == REFUSED:
            return ("twice", "it was refused, and has events") if events else None
        if not events:
            is_missing = command.outcome == ACCEPTED and not self._changed_nothing(command)
            return ("lost", "it was accepted, and has no event") if is_missing else None
        if not _is_one_append(events) or (command.kind in EVENT_OF and len(events) > 1):
            return "twice", f"it has {len(events)} events, more than one effect"
        if EVENT_OF.get(command.kind, events[0].type) != events[0].type:
            return "lost", f"its event is a {events[0].type}"
        return None if command.outcome == UNANSWERED else _as_answered(command, events)

    def _changed_nothing(self, command: Command) -> bool:
        """Whether an accepted command without an event found nothing to change, such as a rename to the same name.

        Its answer then names the last event of its stream, by position and version. If that event is of a command that the same
        load process sent after the answer, the answer promised a place that another command got. Of a user the
        state at that version must also have the values that the command sets.
        """
        if command.position is None or command.kind == "users.create":
            return False
        if not self._names_an_event(command, command.position):
            return False
        history = list(self._scratch.rows(_HISTORY, command.instance, command.version))
        if command.input is None or not history or history[0][0] != 0:
            return True  # of another service, or of a user from before the run, whose values are not known
        return folded(history).has(command.kind, command.input)

    def _names_an_event(self, command: Command, position: int) -> bool:
        """Whether the answer names an event of the command's own stream that was there before the answer."""
        row = next(self._scratch.rows(_AT, position), None)
        if row is None and (event := self._event_at(position)):
            prefix, _, id_ = event["stream"].rpartition("-")
            row = f"{prefix}-", int(id_) if id_.isdecimal() else None, event["version"], None, None
        if row is None:
            return False
        prefix, instance, version, journal, sent = row
        is_later = journal == command.journal and command.answered is not None and sent > command.answered
        named = f"{prefix[:-1].replace('-', '_')}_id", instance, version
        return named == (command.id_field, command.instance, command.version) and not is_later

    @staticmethod
    def _named(command: Command) -> str | None:
        """The stream of a command without events, from its answer."""
        if command.id_field is None:
            return None
        return f"{command.id_field.removesuffix('_id').replace('_', '-')}-{command.instance}"

    # --- the whole -----------------------------------------------------------------------------

    def _find_effects_without_a_command(self) -> None:
        """Find events on streams that the run created, of commands as the run sent them, under unknown command ids."""
        for prefix, instance, version, command, id_ in self._scratch.rows(_WITHOUT_COMMAND):
            if command in self._commands:
                why = f"version {version} has an event of a command that the run did not send"
                note(
                    self._ledger,
                    "twice",
                    why,
                    command_id=id_,
                    operation=command,
                    stream=f"{prefix}{instance}",
                )

    def _find_shared_ids(self) -> None:
        """Find ids that were given to two requests, or to a request and to something that a command created."""
        ledger, place, end = self._ledger, (0, 0), 0
        for lane, step, first, count, journal, n in self._scratch.rows(_GIVEN):
            ledger.ids += count
            if place != (lane, step):
                place, end = (lane, step), first
            if (shared := min(end, first + count) - first) > 0:
                ledger.shared_ids += shared - 1
                operation = next(
                    self._scratch.rows(
                        "SELECT operation FROM commands WHERE journal = ? AND n = ?", journal, n
                    )
                )[0]
                why = f"id {first * step + lane} was given before"
                note(ledger, "shared_ids", why, operation=operation)
            end = max(end, first + count)


def note(
    ledger: Ledger,
    kind: str,
    why: str,
    *,
    command_id: bytes | None = None,
    operation: str | None = None,
    stream: str | None = None,
) -> None:
    """Count a finding, and keep it if it is among the first. `kind` is the name of its count."""
    setattr(ledger, kind, getattr(ledger, kind) + 1)
    if len(ledger.findings) < EXAMPLES:
        shown = command_id and str(UUID(bytes=command_id))
        ledger.findings.append(
            {"kind": kind, "command_id": shown, "operation": operation, "stream": stream, "why": why}
        )


def _is_one_append(events: Sequence[Stored]) -> bool:
    first = events[0]
    return all(
        (event.stream, event.version) == (first.stream, first.version + index)
        for index, event in enumerate(events)
    )


def _as_answered(command: Command, events: Sequence[Stored]) -> tuple[str, str] | None:
    """What is wrong with an effect that is one append: it must end at the version of the answer."""
    first, last = events[0], events[-1]
    if last.instance != command.instance:
        return "lost", "its event is in another stream than its answer says"
    if last.version == command.version:
        return None
    if command.version is not None and first.version <= command.version < last.version:
        return "twice", f"its events end at version {last.version}, not at {command.version} as answered"
    return "lost", f"its event is at version {last.version}, not at {command.version} as answered"
