"""The `projections` worker answers the queries of every feature.

Promise: the queries come from the registry; one that cannot be answered fails alone. Refusal: no row and no stream is
known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from domain.features import Registry
from domain.kernel.errors import EsError, PartUnavailable, UnknownRequest
from domain.kernel.messages import Reply, Request
from workers.projections.row_queries import row_queries
from workers.runtime.queries import ProjectionBehind, Queries, Query, Sources


def queries_of(registry: Registry, sources: Sources) -> Queries:
    """Every query of every feature, by kind of request."""
    found: dict[str, Query] = {}
    for feature in registry.features:
        for module in feature.queries:
            found.update(import_module(module).queries(sources))
        if not feature.queries:
            for projection in registry.projections_of(feature):
                found.update(row_queries(feature.name, projection, sources))
    return found


class QueriesService:
    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        replies: list[Reply] = []
        outage: PartUnavailable | None = None
        for request in batch:
            # It takes seconds to learn that a part is unavailable: once for a batch, not for each request.
            reply = outage or self._answer(request)
            if isinstance(reply, PartUnavailable) and not isinstance(reply, ProjectionBehind):
                outage = reply
            replies.append(reply)
        return replies

    def close(self) -> None:
        """Nothing is held between batches."""

    def _answer(self, request: Request) -> Reply:
        query = self._queries.get(request.kind)
        if query is None:
            return UnknownRequest(request.kind)
        try:
            return query(request)
        except EsError as error:
            return error
