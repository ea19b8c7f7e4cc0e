"""Queries about projections: `projections.status`, and `projections.rebuild`, which starts a rebuild."""

from __future__ import annotations

from domain.kernel.errors import EsError, Kind
from domain.kernel.ids import time_text
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.ports.read_model import Generation, GenerationState
from domain.kernel.projection import Projection
from workers.projections.rebuild import begin_rebuild
from workers.runtime.queries import Queries, Sources


class NoSuchProjection(EsError):
    code = "projection-not-found"
    kind = Kind.NOT_FOUND
    hint = "List the names with `es projections list`."

    def __str__(self) -> str:
        return "there is no such projection"


def queries(sources: Sources) -> Queries:
    found = ProjectionQueries(sources)
    return {"projections.status": found.status, "projections.rebuild": found.rebuild}


class ProjectionQueries:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def status(self, request: Request) -> Reply:
        """The state of every generation of one projection, or of all projections."""
        name = request.body.get("name")
        chosen = self._sources.projections if name is None else (self._named(name),)
        return {"projections": [state for projection in chosen for state in self._states(projection)]}

    def rebuild(self, request: Request) -> Reply:
        projection = self._named(request.body.get("name"))
        generation = begin_rebuild(
            projection,
            store=self._sources.store,
            read_model=self._sources.read_model,
            now_us=self._sources.now_us(),
        )
        self._sources.ensure_rebuild(projection)
        head = self._sources.store.head()
        return {"projection": projection.name, "generation": generation.number, "head": head}

    def _named(self, name: object) -> Projection:
        for projection in self._sources.projections:
            if projection.name == name:
                return projection
        raise NoSuchProjection()

    def _states(self, projection: Projection) -> list[Body]:
        head = self._sources.store.head()
        return [
            self._state(projection, generation, head)
            for generation in self._sources.read_model.generations(projection)
        ]

    def _state(self, projection: Projection, generation: Generation, head: int) -> Body:
        reached = generation.checkpoint
        is_current = generation.state is GenerationState.CURRENT
        if is_current:
            reached = max(reached, self._sources.reached(projection) or 0)
        # Rows of another history show nothing of the store, wherever their checkpoint is.
        is_lost = is_current and self._sources.has_other_history(projection)
        errors = {
            GenerationState.CURRENT: self._sources.last_error,
            GenerationState.BUILDING: self._sources.rebuild_error,
        }
        error_of = errors.get(generation.state)
        is_retired = generation.state is GenerationState.RETIRED
        return {
            "projection": projection.name,
            "generation": generation.number,
            "state": generation.state.value,
            "position": reached,
            "head": head,
            "lag": 0 if is_retired else max(head - (0 if is_lost else reached), 0),
            "other_history": is_lost,
            "events": generation.events,
            "parked": len(self._sources.read_model.parked(projection, generation)),
            "started_at": time_text(generation.started_at_us),
            "last_error": error_of and error_of(projection),
            "finished_at": generation.finished_at_us and time_text(generation.finished_at_us),
        }
