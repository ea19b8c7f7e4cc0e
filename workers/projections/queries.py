"""Queries about projections: `projections.status`, and the requests of `generation_queries.py`."""

from __future__ import annotations

from domain.kernel.ids import time_text
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.ports.read_model import ADOPTED, STORED_ALREADY, Generation, GenerationState
from domain.kernel.projection import Projection
from workers.projections.generation_queries import generation_queries, named
from workers.runtime.queries import Queries, Sources


def queries(sources: Sources) -> Queries:
    return {"projections.status": ProjectionQueries(sources).status, **generation_queries(sources)}


class ProjectionQueries:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def status(self, request: Request) -> Reply:
        """The state of every generation of one projection, or of all projections."""
        name = request.body.get("name")
        chosen = self._sources.projections if name is None else (named(self._sources, name),)
        return {"projections": [state for projection in chosen for state in self._states(projection)]}

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
        code = self._sources.code_of(projection)
        error_of = errors.get(generation.state)
        is_filled = generation.state in errors
        return {
            "projection": projection.name,
            "generation": generation.number,
            "state": generation.state.value,
            "why": generation.why.value,
            "code": generation.code,
            # Of one that an earlier version of es began it is not known.
            "other_code": generation.code not in ("", code, ADOPTED + code),
            **self._speed(projection, generation, head),
            "position": reached,
            "head": head,
            "lag": max(head - (0 if is_lost else reached), 0) if is_filled else 0,
            "other_history": is_lost,
            "events": generation.events,
            "parked": len(self._sources.read_model.parked(projection, generation)),
            "started_at": time_text(generation.started_at_us),
            "last_error": error_of and error_of(projection),
            "finished_at": generation.finished_at_us and time_text(generation.finished_at_us),
        }

    def _speed(self, projection: Projection, generation: Generation, head: int) -> Body:
        """Of a building generation the events a second since this work began, and the seconds that it still needs."""
        if generation.state is not GenerationState.BUILDING:
            return {}
        phases = self._sources.read_model.phases(projection, limit=10)
        own = [each for each in phases if each.generation == generation.number and each.to_us is None]
        if not own:
            return {"events_per_s": None, "left_s": None}
        elapsed_s = max(self._sources.now_us() - own[-1].from_us, 1) / 1e6
        share = generation.checkpoint / max(head, 1)
        # One that was stored before did not begin at position 0: its share tells nothing of the speed.
        is_new = generation.why not in STORED_ALREADY
        left_s = round(elapsed_s * max(1 - share, 0) / share, 1) if is_new and share else None
        return {"events_per_s": round((own[-1].events or 0) / elapsed_s), "left_s": left_s}
