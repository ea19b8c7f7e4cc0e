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
from workers.runtime.queries import ProjectionBehind, Queries, Query, Sources, Together

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
        replies: dict[int, Reply] = {}
        outage: PartUnavailable | None = None
        pages_bytes = 0
        for indexes in self._together(batch):
            requests = [batch[index] for index in indexes]
            if pages_bytes > _BATCH_BYTES:
                replies.update(dict.fromkeys(indexes, LATER))
                continue
            # Detecting an outage takes seconds. Do it once per batch, or the callers time out.
            found = [outage for _ in requests] if outage else self._answers(requests)
            for index, reply in zip(indexes, found, strict=True):
                if isinstance(reply, PartUnavailable) and not isinstance(reply, ProjectionBehind):
                    outage = reply
                replies[index] = reply
            pages_bytes += sum(map(bytes_of_page, requests))
        return [replies[index] for index in range(len(batch))]

    def _together(self, batch: Sequence[Request]) -> list[list[int]]:
        """The requests of a batch by index: those that are answered together, and each of the others alone."""
        found: dict[str | int, list[int]] = {}
        for index, request in enumerate(batch):
            is_together = isinstance(self._queries.get(request.kind), Together)
            found.setdefault(request.kind if is_together else index, []).append(index)
        return list(found.values())

    def close(self) -> None:
        """Nothing is held between batches."""

    def _answers(self, requests: Sequence[Request]) -> list[Reply]:
        """The replies to requests that are answered together, or to one."""
        kind = requests[0].kind
        query = self._queries.get(kind) or self._queries.get(f"{kind.partition('.')[0]}{_ANY}")
        if query is None:
            return [UnknownRequest(kind)]
        try:
            return query.answer(requests) if isinstance(query, Together) else [query(requests[0])]
        except EsError as error:
            return [error for _ in requests]
