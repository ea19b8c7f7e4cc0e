"""Requests about the generations of a projection: rebuilds, checks, comparisons, switches, removals and their history.

Promise: a request that begins work returns at once; the worker goes on, also if the caller ends. Two callers that begin
the same work attach to one. Refusal: no two works on one projection run at once.
"""

from __future__ import annotations

from contextlib import suppress

from domain.kernel.errors import EsError, InvalidInput, PartUnavailable
from domain.kernel.ids import time_text
from domain.kernel.messages import LATER, Body, Reply, Request
from domain.kernel.ports.read_model import ADOPTED, Generation, GenerationState, Phase, Report, Why
from domain.kernel.projection import Projection
from workers.projections.check import shown
from workers.projections.diff import building, in_order, need_fillable
from workers.projections.errors import (
    BuiltByOtherCode,
    GenerationOfOtherHistory,
    NoSuchGeneration,
    NoSuchProjection,
    NoSuchReport,
    NothingRuns,
    NothingStored,
    NoWorkerWithCode,
    ProjectionBusy,
)
from workers.projections.filling import is_of_other_history
from workers.projections.rebuild import begin_rebuild
from workers.runtime.queries import MAX_WHOLE, PATIENCE_S, Queries, Sources, limit_of, text, whole

_BUILDING, _CHECKED = GenerationState.BUILDING, GenerationState.CHECKED
_CURRENT, _RETIRED = GenerationState.CURRENT, GenerationState.RETIRED
_ATTACHES = {
    Why.CHECK: {Why.CHECK},
    Why.REBUILD: {Why.REBUILD, Why.OTHER_HISTORY, Why.UNKNOWN},
}
"""What a rebuild or check that runs already is for one that is asked for."""


def generation_queries(sources: Sources) -> Queries:
    found = GenerationQueries(sources)
    return {
        "projections.rebuild": found.rebuild,
        "projections.report": found.report,
        "projections.diff": found.diff,
        "projections.switch": found.switch,
        "projections.cancel": found.cancel,
        "projections.prune": found.prune,
        "projections.history": found.history,
    }


def named(sources: Sources, name: object) -> Projection:
    for projection in sources.projections:
        if projection.name == name:
            return projection
    raise NoSuchProjection()


class GenerationQueries:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def rebuild(self, request: Request) -> Reply:
        """Begin a rebuild, or with `check` a check, or attach to the one that runs.

        It is one by the `code` of the request, if another worker has that: see `_taken_up`.
        """
        projection = self._named(request)
        code = text(request, "code") or self._sources.code_of(projection)
        why = Why.CHECK if request.body.get("check") is True else Why.REBUILD
        if number := whole(
            request, "generation", 0
        ):  # a caller that waits for one which was begun: begin no other
            self._sources.ensure_rebuild(projection)
            return self._begun(self._stored(projection, number))
        if "begun" in request.memo:
            return self._taken_up(projection, request, NoWorkerWithCode(projection.name, code))
        generation = begin_rebuild(
            projection,
            store=self._sources.store,
            read_model=self._sources.read_model,
            now_us=self._sources.now_us(),
            why=why,
            code=code,
        )
        if generation.code == self._sources.code_of(projection):
            self._sources.ensure_rebuild(projection)
        if generation.why not in _ATTACHES[why] or generation.code != code:
            return ProjectionBusy(generation)
        if generation.checkpoint:  # a worker fills it
            return self._begun(generation)
        return self._taken_up(projection, request, NoWorkerWithCode(projection.name, code), generation)

    def switch(self, request: Request) -> Reply:
        """Begin to switch to a stored generation, or with `rollback` back to the one before; or attach to that.

        Without `generation` it is the checked one, or the one that was current before.
        """
        projection = self._named(request)
        if "begun" in request.memo:
            return self._taken_up(projection, request, request.memo["refusal"])
        why = Why.ROLLBACK if request.body.get("rollback") is True else Why.SWITCH
        running = building(self._sources.read_model, projection)
        number = whole(request, "generation", 0)
        if running is not None:
            self._sources.ensure_rebuild(projection)
            return self._begun(running) if _is_same(running, number, why) else ProjectionBusy(running)
        chosen = self._stored(projection, number) if number else self._proposed(projection, why)
        if chosen.state is _CURRENT:
            return self._begun(chosen)
        self._need_usable(projection, chosen)
        model, now_us = self._sources.read_model, self._sources.now_us()
        begun = model.resume(projection, chosen.number, now_us=now_us, why=why)
        if begun is None:
            running = building(model, projection)
            return ProjectionBusy(running) if running else NoSuchGeneration(projection.name, chosen.number)
        code = self._sources.code_of(projection)
        if chosen.code == code:
            self._sources.ensure_rebuild(projection)
        return self._taken_up(projection, request, BuiltByOtherCode(chosen, code), begun)

    def cancel(self, request: Request) -> Reply:
        """End the rebuild, check, switch or rollback that runs. The current generation stays as it is."""
        projection = self._named(request)
        model = self._sources.read_model
        ended = model.cancel(projection, now_us=self._sources.now_us())
        if ended is None:
            return NothingRuns(projection.name)
        if ended.why is Why.CANCELLED:
            with suppress(PartUnavailable):  # it is being read: the next removal takes it along
                model.prune(projection, keep=MAX_WHOLE)
                self._sources.ensure_rebuild(projection)  # it frees the space
        return {"projection": projection.name, "generation": ended.number}

    def prune(self, request: Request) -> Reply:
        """Remove the retired and checked generations, but for the newest `keep`."""
        projection = self._named(request)
        removed = self._sources.read_model.prune(projection, keep=whole(request, "keep", 0))
        if removed:
            self._sources.ensure_rebuild(projection)  # it frees the space
        return {"projection": projection.name, "removed": removed}

    def history(self, request: Request) -> Reply:
        """The last times for which generations were building or current, oldest first."""
        projection = self._named(request)
        model = self._sources.read_model
        stored = {each.number: each for each in model.generations(projection)}
        phases = model.phases(projection, limit=limit_of(request))
        return {"phases": [_phase(projection, each, stored) for each in phases]}

    def diff(self, request: Request) -> Reply:
        """Begin a comparison of two stored generations: of `first` and `second`, or of the current one and the newest other."""
        projection = self._named(request)
        first, second = self._pair(projection, request)
        need_fillable(self._sources.code_of(projection), *in_order(first, second))
        reports = self._sources.read_model.reports(projection)
        pair = first.number, second.number
        if not any((each.first, each.second) == pair and not each.text for each in reports):
            report = Report(*pair, self._sources.now_us(), "")
            self._sources.read_model.save_report(projection, report)
        self._sources.ensure_rebuild(projection)
        return {"projection": projection.name, "generations": [*pair]}

    def report(self, request: Request) -> Reply:
        """The report of a check's `generation`, or of the comparison of `first` and `second`; `running` before its end."""
        projection = self._named(request)
        second = whole(request, "generation", 0) or whole(request, "second", 0)
        first = whole(request, "first", 0)
        found = [
            each
            for each in self._sources.read_model.reports(projection)
            if each.second == second and each.first == (first or each.first)
        ]
        if not found:
            return NoSuchReport()
        last = max(found, key=lambda each: each.at_us)
        if not last.text:
            self._sources.ensure_rebuild(projection)
            return {"projection": projection.name, "running": True}
        return {"projection": projection.name, "at": time_text(last.at_us), **shown(last)}

    # --- which one -----------------------------------------------------------------------------

    def _named(self, request: Request) -> Projection:
        return named(self._sources, request.body.get("name"))

    def _stored(self, projection: Projection, number: int) -> Generation:
        for each in self._sources.read_model.generations(projection):
            if each.number == number and each.why is not Why.CANCELLED:
                return each
        raise NoSuchGeneration(projection.name, number)

    def _proposed(self, projection: Projection, why: Why) -> Generation:
        """The generation to switch to: the checked one, or for a rollback the one that was retired last."""
        stored = self._sources.read_model.generations(projection)
        if why is Why.ROLLBACK:
            retired = [(each.retired_at_us, each.number, each) for each in stored if each.retired_at_us]
            found = [each for _, _, each in sorted(retired, key=lambda item: item[:2])]
        else:
            found = [each for each in stored if each.state is _CHECKED]
        if not found:
            raise NothingStored(projection.name, "retired" if why is Why.ROLLBACK else "checked")
        return found[-1]

    def _pair(self, projection: Projection, request: Request) -> tuple[Generation, Generation]:
        first, second = whole(request, "first", 0), whole(request, "second", 0)
        if first and second:
            if first == second:
                raise InvalidInput("generation", "two different ones are compared")
            pair = self._stored(projection, first), self._stored(projection, second)
            for each in pair:
                if each.state is _BUILDING:
                    raise ProjectionBusy(each)
            return pair
        stored = [
            each for each in self._sources.read_model.generations(projection) if each.why is not Why.CANCELLED
        ]
        others = [each for each in stored if each.state in (_CHECKED, _RETIRED)]
        if not others:
            raise NothingStored(projection.name, "checked or retired")
        (current,) = [each for each in stored if each.state is _CURRENT]
        return current, others[-1]

    def _need_usable(self, projection: Projection, chosen: Generation) -> None:
        """Raise if the generation cannot catch up: by the present code, with the events of the store."""
        code = self._sources.code_of(projection)
        if chosen.code != code and (not chosen.code or ADOPTED in chosen.code):  # no worker can have it
            raise BuiltByOtherCode(chosen, code)
        if is_of_other_history(chosen, self._sources.store):
            raise GenerationOfOtherHistory(chosen)

    def _taken_up(
        self, projection: Projection, request: Request, refusal: EsError, begun: Generation | None = None
    ) -> Reply:
        """The reply for work that was `begun`. Work that needs other code is cancelled if no worker takes it up in 6 s."""
        begun = request.memo.setdefault("begun", begun)
        request.memo["refusal"] = refusal
        assert isinstance(begun, Generation)
        stored = self._sources.read_model.generations(projection)
        if begun.code == self._sources.code_of(projection):
            return self._begun(begun)
        if begun not in stored:
            # The worker with the code begins another one if its columns are not those of this worker's code.
            later = [each for each in stored if each.code == begun.code and each.number >= begun.number]
            return self._begun(later[0] if later else begun)
        since_s = request.memo.setdefault("since_s", self._sources.monotonic_s())
        if self._sources.monotonic_s() - since_s <= PATIENCE_S:
            return LATER
        self.cancel(request)
        return refusal

    def _begun(self, generation: Generation) -> Body:
        head = self._sources.store.head()
        return {"projection": generation.projection, "generation": generation.number, "head": head}


def _is_same(running: Generation, number: int, why: Why) -> bool:
    """Whether the work that is asked for runs already."""
    return running.why in (Why.SWITCH, Why.ROLLBACK) and (
        running.number == number or (not number and running.why is why)
    )


def _phase(projection: Projection, phase: Phase, stored: dict[int, Generation]) -> Body:
    now = stored.get(phase.generation)
    elapsed_s = None if phase.to_us is None else max(phase.to_us - phase.from_us, 1) / 1e6
    rate = None if elapsed_s is None or phase.events is None else round(phase.events / elapsed_s, 1)
    return {
        "projection": projection.name,
        "generation": phase.generation,
        "state": phase.state.value,
        "why": phase.why.value or None,
        "code": phase.code or None,
        "from": time_text(phase.from_us),
        "to": phase.to_us and time_text(phase.to_us),
        "rows": phase.rows,
        "events": phase.events,
        "events_per_s": rate,
        "now": now.state.value if now else "removed",
    }
