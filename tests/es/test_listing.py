"""A list is read page by page: two of them are in memory, and none is asked for that is not needed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from itertools import islice
from typing import Any

import pytest

from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import Body
from es.connection import Listing
from tests.support.waiting import eventually


class Pages:
    """A list of so many rows, of which a reply holds at most `fits`."""

    def __init__(self, rows: int, fits: int = 1000) -> None:
        self._rows = rows
        self._fits = fits
        self.asked: list[Mapping[str, Any]] = []

    def __call__(self, bounds: Mapping[str, Any]) -> Body:
        self.asked.append(bounds)
        after = bounds.get("after", 0)
        last = min(after + min(bounds["limit"], self._fits), self._rows)
        rows = [{"id": number + 1} for number in range(after, last)]
        return {"rows": rows, "next": {"after": last} if last < self._rows else None}


@pytest.mark.parametrize(
    ("stored", "limit", "fits"), [(0, 10, 3), (7, 7, 3), (7, 100, 3), (9, 5, 2), (2500, 2500, 1000)]
)
def test_it_yields_every_row_up_to_the_limit(stored: int, limit: int, fits: int) -> None:
    rows = Listing(Pages(stored, fits), "rows", limit)

    found = [row["id"] for row in rows]

    assert found == [*range(1, min(stored, limit) + 1)]
    assert rows.count == len(found)
    assert rows.following == ({"after": limit} if stored > limit else None)


def test_no_page_is_asked_for_before_the_first_row_is_needed() -> None:
    pages = Pages(10)

    rows = Listing(pages, "rows", 10)
    assert pages.asked == []
    next(iter(rows))

    assert pages.asked == [{"limit": 10}]


def test_a_page_is_asked_for_while_the_one_before_is_used() -> None:
    pages = Pages(10, fits=3)
    rows = iter(Listing(pages, "rows", 10))

    next(rows)

    eventually(lambda: len(pages.asked) == 2, "the second page was asked for")
    assert [row["id"] for row in islice(rows, 2)] == [2, 3]
    assert len(pages.asked) == 2
    assert next(rows)["id"] == 4
    eventually(lambda: len(pages.asked) == 3, "the third page was asked for")


def test_a_list_that_is_left_asks_for_nothing_more() -> None:
    pages = Pages(10, fits=3)
    rows = iter(Listing(pages, "rows", 10))
    next(rows)

    rows.close()  # type: ignore[attr-defined]

    eventually(lambda: "next-page" not in {thread.name for thread in threading.enumerate()}, "it ended")
    assert len(pages.asked) == 2


def test_it_asks_for_no_more_than_the_limit() -> None:
    pages = Pages(10_000)

    [*Listing(pages, "rows", 1500)]

    assert pages.asked == [{"limit": 1000}, {"after": 1000, "limit": 500}]


def test_an_error_comes_after_the_rows_before_it() -> None:
    pages = Pages(10, fits=3)

    def page(bounds: Mapping[str, Any]) -> Body:
        if "after" in bounds:
            raise PartUnavailable("the projections worker", "it is not running")
        return pages(bounds)

    rows = iter(Listing(page, "rows", 10))

    assert [row["id"] for row in islice(rows, 3)] == [1, 2, 3]
    with pytest.raises(PartUnavailable):
        next(rows)
