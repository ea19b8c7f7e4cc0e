"""The `projections` worker: answers the queries of every feature in the registry.

Promise: a query that fails does not fail the others of its batch. Refusal: it knows no projection and no stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from domain.features import BUILT_IN, Registry
from domain.kernel.errors import EsError, InvalidSetting, PartUnavailable, UnknownRequest
from domain.kernel.feature import Feature
from domain.kernel.messages import LATER, Reply, Request
from workers.projections.instance_queries import instance_queries
from workers.projections.row_queries import row_queries
from workers.runtime.pages import bytes_of_page
from workers.runtime.queries import ProjectionBehind, Queries, Query, Sources

_ANY = ".*"
_BATCH_BYTES = 4 << 20
"""The pages of one batch. All its replies are in memory at once, so further requests wait for a later batch."""


def queries_of(registry: Registry, sources: Sources) -> Queries:
    """Every query of every feature, by kind of request. `<feature>.*` answers for one whose queries cannot be made."""
    found: dict[str, Query] = {}
    for feature in registry.features:
        try:
            made = _queries_of(feature, registry, sources)
            if twice := found.keys() & made.keys():
                raise InvalidSetting("features", f"have two of the query {min(twice)!r}")
        except Exception as error:  # code of another package: the other features must work
            if feature in BUILT_IN:
                raise
            found[f"{feature.name}{_ANY}"] = _refusing(feature, error)
        else:
            found.update(made)
    return found


def _refusing(feature: Feature, error: Exception) -> Query:
    reason = str(error) if isinstance(error, EsError) else f"{type(error).__name__}: {error}"
    refused = InvalidSetting("features", f"name {feature.name}, whose queries cannot be used: {reason}")

    def query(_: Request) -> Reply:
        return refused

    return query


def _queries_of(feature: Feature, registry: Registry, sources: Sources) -> Queries:
    found: dict[str, Query] = {}
    for module in feature.queries:
        found.update(import_module(module).queries(sources))
    if not feature.queries:
        for projection in registry.projections_of(feature):
            found.update(row_queries(feature.name, projection, sources))
        found.update(instance_queries(feature.name, registry.aggregates_of(feature), sources))
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
        query = self._queries.get(request.kind) or self._queries.get(
            f"{request.kind.partition('.')[0]}{_ANY}"
        )
        if query is None:
            return UnknownRequest(request.kind)
        try:
            return query(request)
        except EsError as error:
            return error
