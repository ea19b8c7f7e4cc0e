"""The `projections` worker: answers the queries of every feature in the registry.

Promise: a query that fails does not fail the others of its batch. Refusal: it knows no projection and no stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from domain.features import Registry
from domain.kernel.errors import EsError, InvalidSetting, PartUnavailable, UnknownRequest
from domain.kernel.messages import LATER, Reply, Request
from workers.projections.row_queries import row_queries
from workers.runtime.pages import bytes_of_page
from workers.runtime.queries import ProjectionBehind, Queries, Query, Sources

_BATCH_BYTES = 4 << 20
"""The pages of one batch. All its replies are in memory at once, so further requests wait for a later batch."""


def queries_of(registry: Registry, sources: Sources) -> Queries:
    """Every query of every feature, by kind of request. Raises InvalidSetting if two have the same kind."""
    found: dict[str, Query] = {}
    for feature in registry.features:
        made: list[Queries] = [import_module(module).queries(sources) for module in feature.queries]
        if not made:
            projections = registry.projections_of(feature)
            made = [row_queries(feature.name, projection, sources) for projection in projections]
        for queries in made:
            if twice := found.keys() & queries.keys():
                raise InvalidSetting("features", f"have two of the query {min(twice)!r}")
            found.update(queries)
    return found


class QueriesService:
    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        replies: list[Reply] = []
        outage: PartUnavailable | None = None
        pages_bytes = 0
        for request in batch:
            if pages_bytes > _BATCH_BYTES:
                replies.append(LATER)
                continue
            # Detecting an outage takes seconds. Do it once per batch, or the callers time out.
            reply = outage or self._answer(request)
            if isinstance(reply, PartUnavailable) and not isinstance(reply, ProjectionBehind):
                outage = reply
            pages_bytes += bytes_of_page(request)
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
