"""Read and translate the events of a long rebuild in a process of its own, while this one stores the rows.

Both take about as long, and the threads of one process take turns at Python.

Promise: the rows are those that this process would make. The other process ends where it cannot tell them: an event has to be
parked, its code is another, it fails or is killed. The rebuild then goes on in this process, from its checkpoint. It also ends
with this process, and with a rebuild that is stopped. Refusal: it stores nothing, and has no key.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import BinaryIO

from adapters.rows import Translated, from_bytes, to_bytes
from adapters.settings import Settings
from adapters.wiring import open_codec, open_store
from domain.features import registry
from domain.kernel.behaviour import behaviour_of
from domain.kernel.events import Position, Recorded
from domain.kernel.history import Mark
from domain.kernel.projection import merged
from workers.projections.filling import Applier, Filler, Filling
from workers.runtime import garbage

WORTH_IT = 50_000
"""Events. The other process starts in the time in which this one rebuilds some 30,000."""
_EVENT_BYTES = 1_000
"""The positions of a server are addresses. An event takes about so many."""
SILENCE_S = 60.0
"""Another process that says nothing for so long is suspended, or finds few events: this one goes on alone."""
BATCH = 5_000
"""Events. Both processes hold some batches: half as many as a rebuild takes alone."""
_LOOK_MS = 200
_LENGTH_BYTES = 8
_CHUNK_BYTES = 1 << 20
_NICENESS = 5


def fill_ahead(
    parts: Filling,
    filler: Filler,
    until: Position,
    stopped: Callable[[], bool],
    progressed: Callable[[], None] = lambda: None,
) -> bool:
    """Fill a generation up to a position, as far as another process can tell its rows. It may be none.

    False if another filler moved its checkpoint first.
    """
    generation, projection = filler.generation, parts.projection
    worth_it = WORTH_IT * (_EVENT_BYTES if parts.store.is_remote else 1)
    is_long = until - generation.checkpoint >= worth_it
    if parts.home is None or not is_long or projection.sees_rows or filler.has_parked:
        return True
    given = {"home": parts.home, "projection": projection.name, "code": parts.code}
    given |= {"after": generation.checkpoint, "until": until}
    with _translated(given, stopped) as batches:
        for batch in batches:
            if not filler.begin_rows(batch.rows, batch.events, batch.last):
                return False
            if filler.has_parked or stopped():
                break
            progressed()
        if not filler.finish():
            return False
    # Why it ended is not known here: the errors of the other process may repeat an event, and its work is done again here.
    events = filler.generation.events - generation.events
    parts.log.info("translated-ahead", projection=projection.name, events=events)
    return True


@contextmanager
def _translated(given: Mapping[str, object], stopped: Callable[[], bool]) -> Iterator[Iterator[Translated]]:
    """The batches of another process. There are none if the system cannot start one now."""
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "workers", "translate", *options],
            stdin=subprocess.PIPE,  # it ends when this is closed
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what Python prints may repeat an event
            start_new_session=True,
        )
    except OSError:
        yield iter(())
        return
    with process:
        try:
            assert process.stdout is not None
            yield _received(process.stdout.fileno(), stopped)
        finally:
            process.kill()


def _received(fd: int, stopped: Callable[[], bool]) -> Iterator[Translated]:
    while (length := _read(fd, _LENGTH_BYTES, stopped)) is not None:
        raw = _read(fd, int.from_bytes(length, "big"), stopped)
        if raw is None:
            return
        yield from_bytes(raw)


def _read(fd: int, count: int, stopped: Callable[[], bool]) -> bytearray | None:
    """So many bytes; None if the other process has ended or says nothing, or this rebuild is to stop."""
    received, give_up_at_s = bytearray(), time.monotonic() + SILENCE_S
    arrived = select.poll()
    arrived.register(fd, select.POLLIN)
    while len(received) < count:
        if not arrived.poll(_LOOK_MS):
            if stopped() or time.monotonic() > give_up_at_s:
                return None
            continue
        if not (chunk := os.read(fd, min(count - len(received), _CHUNK_BYTES))):
            return None
        received += chunk
    return received


# --- the other process -----------------------------------------------------------------------


def translate(
    settings: Settings, name: str, code: str, after: Position, until: Position, into: BinaryIO
) -> None:
    """Write the batches of the events after a position, at most up to another one. Writes none with other code."""
    os.nice(_NICENESS)  # commands and queries come first
    known = registry(settings.features)
    projection = next((each for each in known.projections if each.name == name), None)
    if projection is None or behaviour_of(projection, known.aggregates) != code:
        return
    garbage.collect_seldom()
    with closing(open_store(settings.store)) as store:
        applier = Applier(projection, open_codec(settings.features), [])
        while after < until:
            taken: list[Recorded] = []
            events = store.read_all(after, BATCH, prefixes=projection.prefixes)
            operations, parked = applier.translate(_up_to(until, events, taken))
            if parked or not taken:
                return
            last = Mark(taken[-1].position, taken[-1].event_id)
            raw = to_bytes(Translated(len(taken), last, merged(projection, operations)))
            into.write(len(raw).to_bytes(_LENGTH_BYTES, "big"))
            into.write(raw)
            into.flush()
            after = last.position


def _up_to(until: Position, events: Iterable[Recorded], taken: list[Recorded]) -> Iterator[Recorded]:
    """The events up to a position, each of which is added to `taken`."""
    for recorded in events:
        if recorded.position > until:
            return
        taken.append(recorded)
        yield recorded


def end_with_parent() -> None:
    """End this process when the process that started it closes its standard input, or ends."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # not by its buffer, which the end of the interpreter wants to lock
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
