"""Checks: fill a generation beside the current one, compare the two at one position, and keep both.

Promise: the current generation stays what queries read. A killed check resumes. Refusal: a check promotes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from domain.kernel.errors import AnsweredError, OtherHistory
from domain.kernel.messages import Body
from domain.kernel.ports.read_model import Generation, GenerationState, ReadModel, Report, Snapshot, Why
from domain.kernel.projection import Projection
from workers.projections.ahead import fill_ahead
from workers.projections.comparison import Comparison, Stopped, compare
from workers.projections.filling import Filler, Filling, is_of_other_history
from workers.projections.next_batch import fill_to, pause

_LEVEL_PAUSE_S = 0.1
"""The wait before a check that is ahead of the current generation looks at that again."""


class Check:
    """Carries out the check of a building generation, which `filler` fills."""

    def __init__(self, parts: Filling, filler: Filler) -> None:
        self._parts = parts
        self._filler = filler

    def run(self, stopped: Callable[[], bool], progressed: Callable[[], None]) -> Generation | None:
        """Fill, compare, and store the report. Returns the checked generation.

        Returns None if stopped or cancelled, if another worker is faster, or if the current generation is of another
        history: there is nothing to compare with.
        """
        parts, filler = self._parts, self._filler

        def ended() -> bool:
            return stopped() or not self._is_wanted()

        while not ended():
            live = parts.read_model.prepare(parts.projection, now_us=parts.now_us(), code=parts.code)
            if is_of_other_history(live, parts.store):
                return None
            if not fill_ahead(parts, filler, live.checkpoint, stopped, progressed):
                return None
            if not fill_to(parts, filler, live.checkpoint, stopped, progressed):
                return None
            try:
                found = level(parts, live, filler, ended)
            except Stopped:
                return None
            if found is not None:
                return self._end(found)
            pause(_LEVEL_PAUSE_S, stopped)
        return None

    def _end(self, found: Comparison) -> Generation | None:
        parts, built = self._parts, self._filler.generation
        if is_of_other_history(built, parts.store):
            raise OtherHistory(built.checkpoint)
        now_us = parts.now_us()
        elapsed_s = max(now_us - built.started_at_us, 1) / 1e6
        # Before the state: a checked generation always has its report.
        speed = {"events": built.events, "events_per_s": round(built.events / elapsed_s)}
        save(parts.read_model, parts.projection, found, now_us, **speed)
        if not parts.read_model.end_check(parts.projection, built, now_us=now_us, rows=found.rows[1]):
            return None
        parts.log.info("checked", projection=built.projection, generation=built.number, result=found.result)
        return built

    def _is_wanted(self) -> bool:
        """Whether the generation is still that of a check: it may be cancelled, or become a rebuild."""
        number, read_model = self._filler.generation.number, self._parts.read_model
        return any(
            each.number == number and each.state is GenerationState.BUILDING and each.why is Why.CHECK
            for each in read_model.generations(self._parts.projection)
        )


def level(
    parts: Filling, leader: Generation, filler: Filler, stopped: Callable[[], bool]
) -> Comparison | None:
    """Compare a generation with the one that `filler` fills, at the position of the first.

    Projectors fill the first one meanwhile: a snapshot holds it, and the other one catches up with exactly that. None if
    that is impossible now, because the other one is ahead or is filled by another worker. Raises `Stopped`.
    """
    with _held(parts.read_model, parts.projection, leader) as first:
        if not fill_to(parts, filler, first.generation.checkpoint, stopped):
            if stopped():
                raise Stopped()
            return None
        with _held(parts.read_model, parts.projection, filler.generation) as second:
            if first.generation.checkpoint != second.generation.checkpoint:
                return None
            return compare(parts.projection, first, second, stopped=stopped)


@contextmanager
def _held(read_model: ReadModel, projection: Projection, generation: Generation) -> Iterator[Snapshot]:
    """A snapshot that is held in a thread of its own: this thread uses the read model meanwhile."""
    with ThreadPoolExecutor(1, "snapshot") as own:
        context = read_model.snapshot(projection, generation)
        snapshot = own.submit(context.__enter__).result()
        try:
            yield snapshot
        finally:
            own.submit(context.__exit__, None, None, None).result()


def save(
    read_model: ReadModel, projection: Projection, found: Comparison, now_us: int, **more: object
) -> None:
    text = json.dumps({**found.body(), **more})
    read_model.save_report(projection, Report(*found.numbers, now_us, text))


def shown(report: Report) -> Body:
    """A stored report as a reply shows it. Raises the error that kept the comparison from its end."""
    body: Body = json.loads(report.text)
    if "error" in body:
        raise AnsweredError.from_wire(body["error"])
    return body
