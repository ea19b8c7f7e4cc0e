"""Queries of stored rows, for the projections of a feature without queries of its own.

`<feature>.get` with `key` returns a row, and `<feature>.list` returns rows in order of key. For a projection with
another name than its feature they are `<feature>.<projection>.get` and `<feature>.<projection>.list`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

from domain.kernel.errors import EsError, InvalidInput, Kind
from domain.kernel.ids import parse_id
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.projection import Key, Projection, Value
from workers.runtime.opening import opened_columns
from workers.runtime.pages import fit
from workers.runtime.queries import Queries, Sources, Together, limit_of


class NoSuchRow(EsError):
    projection: str
    code = "not-found"
    kind = Kind.NOT_FOUND
    hint = "Check the key, or list the rows."

    def __str__(self) -> str:
        return f"{self.projection} has no row with this key"


def row_queries(feature: str, projection: Projection, sources: Sources) -> Queries:
    found = RowQueries(projection, sources)
    name = feature if projection.name == feature else f"{feature}.{projection.name}"
    return {f"{name}.get": Together(found.get), f"{name}.list": found.list_rows}


class RowQueries:
    def __init__(self, projection: Projection, sources: Sources) -> None:
        self._projection = projection
        self._sources = sources

    def get(self, requests: Sequence[Request]) -> list[Reply]:
        rows = self._sources.rows_of(
            self._projection, requests, lambda request: self._key(request.body.get("key"), "key")
        )
        try:
            shown: Iterator[Reply] = iter([*self._shown([row for row in rows if isinstance(row, dict)])])
        except EsError as error:
            shown = repeat(error)
        missing = NoSuchRow(self._projection.name)
        return [next(shown) if isinstance(row, dict) else row or missing for row in rows]

    def list_rows(self, request: Request) -> Reply:
        after = request.body.get("after")
        if later := self._sources.wait_for(self._projection, request, self._sources.target(request)):
            return later
        limit = limit_of(request)
        rows = self._sources.read_model.rows(
            self._projection,
            after=None if after is None else self._key(after, "after"),
            limit=limit + 1,
        )
        shown, has_more = fit(request, self._shown(rows[:limit]), len(rows))
        return {"rows": shown, "next": {"after": shown[-1][self._projection.key]} if has_more else None}

    def _key(self, value: object, field: str) -> Key:
        if self._projection.key_type == "INTEGER":
            return parse_id(value, field=field)
        if not isinstance(value, str):
            raise InvalidInput(field, "must be text")
        return value

    def _shown(self, rows: Sequence[Mapping[str, Value]]) -> Iterator[Body]:
        """Rows as JSON, with opened personal columns. A whole-number key becomes text, as every id in JSON."""
        key, keyring = self._projection.key, self._sources.keyring([])
        sealed = (keyring.subject_in(value) for row in rows for value in row.values())
        keyring.load({subject for subject in sealed if subject is not None})
        for row in rows:
            opened = opened_columns(row, keyring, self._sources.codec.personal_names, but=key)
            yield {**opened, key: str(row[key])}
