"""Pages of lists: as many rows as fit in one reply.

Promise: a page has a row if the list has one, whatever the size of its rows, so a caller always gets on. Refusal: a row
that no reply can carry is shown without its large values, which `unreadable` names; it does not hide the rows after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from domain.kernel.errors import shortened
from domain.kernel.messages import INPUT_DEPTH, MAX_MESSAGE_BYTES, Body, Request, is_shallow, to_json

PAGE_BYTES = MAX_MESSAGE_BYTES * 3 // 4
"""The rest of a reply is for what is around the rows."""
_ROW_LIMIT_BYTES = PAGE_BYTES
_SHOWN_CHARACTERS = 1000
_MEMO = "page_bytes"


def fit(request: Request, rows: Iterable[Body], available: int) -> tuple[list[Body], bool]:
    """The rows of a page, and whether the list goes on: `available` counts its rows, `rows` may leave out the last."""
    shown: list[Body] = []
    size = 0
    for row in rows:
        row, row_bytes = _fitted(row)
        if shown and size + row_bytes > PAGE_BYTES:
            break
        shown.append(row)
        size += row_bytes
    request.memo[_MEMO] = size
    return shown, len(shown) < available


def bytes_of_page(request: Request) -> int:
    """The size of the page that the request was answered with; 0 for another reply."""
    return int(request.memo.pop(_MEMO, 0))


def _fitted(row: Body) -> tuple[Body, int]:
    text = _text(row)
    if text is None or len(text) > _ROW_LIMIT_BYTES:
        cut = {name: value for name, value in row.items() if _cut(value) != value}
        row = {**row, **{name: _cut(value) for name, value in cut.items()}}
        row["unreadable"] = {**row.get("unreadable", {}), **dict.fromkeys(cut, "too-large")}
        text = _text(row) or b""
    return row, len(text)


def _text(row: Body) -> bytes | None:
    """The JSON of a row; None if it is nested too deeply for a reply."""
    try:
        text = to_json(row)
    except RecursionError:
        return None
    return text.encode("utf-8", "surrogatepass") if is_shallow(text, levels=INPUT_DEPTH - 2) else None


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return shortened(value, _SHOWN_CHARACTERS)
    return type(value)() if isinstance(value, dict | list) else value
