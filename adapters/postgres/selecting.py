"""Conditions of queries over the rows of a projection, and the types of its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.postgres.text import encoded_key
from domain.kernel.projection import Key, Projection, Value, unusual_columns

TYPES = {"INTEGER": "bigint", "TEXT": "text"}


def selection_of(
    projection: Projection,
    keys: Sequence[Key] | None,
    bounds: Mapping[str, Key],
    wanted: Mapping[str, Value],
    limit: int | None,
) -> tuple[str, list[Any]]:
    """The condition, order and limit of a query, with its arguments."""
    if keys is not None:
        type_ = TYPES[projection.key_type]
        return f"{{key}} = ANY(%b::{type_}[]) ORDER BY {{key}}", [[encoded_key(key) for key in keys]]
    condition, arguments = within(bounds)
    if wanted:
        marks = ", ".join(f"%s::{column_type(projection, name)}" for name in wanted)
        condition = f"ROW({{wanted}}) = ROW({marks}) AND {condition}"
        for name in unusual_columns(projection, wanted):
            condition = f"{unusual(projection, name)} AND {condition}"
    return f"{condition} ORDER BY {{key}} LIMIT %s", [*wanted.values(), *arguments, limit]


def within(bounds: Mapping[str, Key]) -> tuple[str, list[Any]]:
    """The condition for keys within bounds, with its arguments."""
    conditions = [f"{{key}} {operator} %s" for operator in bounds]
    return " AND ".join(conditions) or "TRUE", [encoded_key(bound) for bound in bounds.values()]


def unusual(projection: Projection, column: str) -> str:
    """The condition of the rows that the index of a column leads to. A query needs it to use the index."""
    return f"{column} <> '{projection.usual[column]}'"


def column_type(projection: Projection, column: str) -> str:
    """The type of a column. PostgreSQL refuses a column that does not exist."""
    return TYPES[projection.columns.get(column, "TEXT")]
