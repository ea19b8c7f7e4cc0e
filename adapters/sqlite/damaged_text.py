"""Read rows of which a text is damaged.

SQLite returns any bytes as text, and the driver cannot decode those that are no UTF-8: a changed bit is enough. Promise: one
damaged text makes its own value odd, and hides no other row of the page. Refusal: sound rows pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from adapters.sqlite.database import Connection


def fetched(
    connection: Connection,
    statement: str,
    values: Sequence[Any],
    *,
    columns: Sequence[str],
    texts: Collection[str],
) -> list[Any]:
    """The rows of a statement that begins with SELECT and `columns`; a damaged text has U+FFFD in place of its bytes."""
    try:
        return connection.execute(statement, values).fetchall()
    except UnicodeDecodeError:
        as_bytes = [f"CAST({name} AS BLOB)" if name in texts else name for name in columns]
        _, selected, rest = statement.partition(f"SELECT {', '.join(columns)} ")
        assert selected
        found = connection.execute(f"SELECT {', '.join(as_bytes)} {rest}", values).fetchall()
        places = [place for place, name in enumerate(columns) if name in texts]
        return [_decoded(row, places) for row in found]


def _decoded(row: Sequence[Any], places: Sequence[int]) -> tuple[Any, ...]:
    values = [*row]
    for place in places:
        values[place] = None if values[place] is None else str(values[place], "utf-8", "replace")
    return tuple(values)
