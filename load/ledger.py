"""The ledger of a run: what the system kept of what was sent, by command id.

Promise: after a run with an accepted command that has no effect, a command with two, a row that disagrees with its stream, or
an id that was given twice, the ledger is not clean. It only reads, with the queries that every program has; memory stays flat.
Refusal: no command is repeated, and no store is opened.

What it cannot see:
- A second effect outside the streams that the run created, under a command id that the run did not send. It looks like the work of
  another client. The other way round, a change of the run's own instances by another client counts as `twice`.
- A second effect by a process (saga): its commands have ids of their own.
- An accepted command of another service than users that left no event, if its answer names, by version and position, an event
  of its stream that the same load process did not send later: it is taken for one that had nothing to change. Of users
  the values are compared as well.
- Effects after the check. An unanswered command whose request still waits for a worker may be carried out later; it has
  at most one effect then as well, and is missing in `unanswered_carried_out`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import Body
from es.client import Client, Unavailable
from es.connection import TIMEOUT_S
from load.effects import Judge
from load.results import Ledger
from load.rows import Ask, Rows
from load.scratch import UNANSWERED, InvalidJournal, Progress, Scratch

if TYPE_CHECKING:
    from adapters.settings import Settings

_PATIENCE_S = 300.0
"""How long a query is repeated while a part is unavailable, or while a projection is behind after an overload."""
_PAUSE_S = 0.2
_NO_ROOM = "Make room in the folder of the journals, or let it be written. Then check again."
_PAGE = 1000
_ATTEMPTS = 3


def check(
    settings: Settings,
    journals: Sequence[Path],
    *,
    since_position: str,
    on_progress: Progress = lambda step, done: None,
) -> Ledger:
    """Check the journals of all load processes of a run, of all machines, once their requests have ended.

    `since_position` is the head of the event store before the run. Raises InvalidJournal, and Unavailable if the workers or a
    projection cannot answer for 300 s: then nothing is known.
    """
    with Client(settings=settings, actor="load-ledger") as client:
        return check_with(
            patient(client, on_progress), journals, since_position=since_position, on_progress=on_progress
        )


def patient(client: Client, on_progress: Progress) -> Ask:
    """Ask queries of a client, and repeat each while a part is unavailable: `waiting` is told with the seconds."""
    repeating = Retrying(
        retry=retry_if_exception_type(Unavailable),
        stop=stop_after_delay(_PATIENCE_S),
        wait=wait_fixed(_PAUSE_S),
        before_sleep=lambda state: on_progress("waiting", int(state.seconds_since_start or 0)),
        reraise=True,
    )

    def ask(kind: str, body: Mapping[str, Any]) -> Body:
        return repeating(client.ask, kind, body)

    return ask


def check_with(ask: Ask, journals: Sequence[Path], *, since_position: str, on_progress: Progress) -> Ledger:
    """As `check`, over any source of replies."""
    with opened(ask, journals, since_position, on_progress) as (scratch, reached):
        for _ in range(_ATTEMPTS):
            ledger = _evaluated(scratch, ask, on_progress)
            before, reached = reached, _read_events(scratch, ask, reached, on_progress)
            # A row may show what was stored after the events were read: then both are read again.
            if ledger.is_clean or reached == before:
                break
    return ledger


@contextmanager
def opened(
    ask: Ask, journals: Sequence[Path], since_position: str, on_progress: Progress
) -> Iterator[tuple[Scratch, int]]:
    """The journals and the events since a position, sorted, and the position that was reached.

    Raises PartUnavailable if the folder of the first journal cannot be written, or is full.
    """
    if not journals:
        raise InvalidJournal("journals", "are missing")
    try:
        with Scratch(journals[0].parent) as scratch:
            scratch.load(journals, on_progress)
            _wait_for_requests(scratch)
            yield scratch, _read_events(scratch, ask, int(since_position), on_progress)
    except (OSError, sqlite3.OperationalError) as error:
        raise PartUnavailable("the scratch file of the ledger", str(error), _NO_ROOM) from error


def _evaluated(scratch: Scratch, ask: Ask, on_progress: Progress) -> Ledger:
    ledger = Ledger()

    def event_at(position: int) -> Body | None:
        events = ask("events.read", {"after_position": position - 1, "limit": 1})["events"]
        return next((event for event in events if event["position"] == position), None)

    Judge(scratch, ledger, event_at).judge(on_progress)
    Rows(scratch, ledger, ask).compare(on_progress)
    return ledger


def _wait_for_requests(scratch: Scratch) -> None:
    """Wait until the newest unanswered command has timed out: that of a killed load process may just have been sent."""
    newest_us = scratch.number(
        "SELECT MAX(at_us) FROM commands WHERE id IS NOT NULL AND outcome = ?", UNANSWERED
    )
    # A clock of another machine may be ahead: never longer than a request takes.
    left_s = newest_us / 1e6 + TIMEOUT_S - time.time()
    if left_s > 0:
        time.sleep(min(left_s, TIMEOUT_S))


def _read_events(scratch: Scratch, ask: Ask, after: int, on_progress: Progress) -> int:
    """Read and sort all events that are stored now, and return the position that was reached."""
    head = int(ask("events.read", {"from_end": True})["position"])
    count = 0
    while after < head:
        page = ask("events.read", {"after_position": after, "limit": _PAGE})
        scratch.add_events(page["events"])
        after = int(page["position"])
        count += len(page["events"])
        on_progress("events", count)
    scratch.sort()
    return after
