"""A feature of an outside package, in one file: shelves with books. `ES_FEATURES=tests.support.shelves` registers it.

It has what a feature can have: an aggregate with commands whose annotations are the parser, the bulk format and the
command line, a projection with whole-number keys that counts, and one with text keys that sees the row before the
event and removes rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import es

# --- events ----------------------------------------------------------------------------------


@es.event("shelf-opened.v1")
class ShelfOpened(es.Event):
    label: str


@es.event("book-put.v1")
class BookPut(es.Event):
    title: str


@es.event("shelf-closed.v2")
class ShelfClosed(es.Event):
    label: str


def shelf_closed_v1(data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The first version had the label as `name`."""
    return "shelf-closed.v2", {"label": data["name"]}


# --- state -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shelf:
    label: str = ""
    books: int = 0
    is_open: bool = False


def evolve(shelf: Shelf, event: es.Event) -> Shelf:
    match event:
        case ShelfOpened(label=label):
            return Shelf(label, is_open=True)
        case BookPut():
            return replace(shelf, books=shelf.books + 1)
        case ShelfClosed():
            return replace(shelf, is_open=False)
    return shelf


# --- commands --------------------------------------------------------------------------------


def parse_label(value: object) -> str:
    if not isinstance(value, str) or not value.isalpha():
        raise es.InvalidInput("label", "must be a word")
    return value


@es.command("shelves.open", creates=True)
class OpenShelf(es.Command):
    """Open a shelf."""

    shelf_id: es.Id
    label: Annotated[str, es.Input(parse_label, "What is on it, in one word.")]


@es.command("shelves.put-book", done="put the book on shelf {shelf_id}")
class PutBook(es.Command):
    """Put a book on a shelf."""

    shelf_id: es.Id
    title: Annotated[str, es.text(200, "The book's title.")]


@es.command("shelves.close", question="Close this shelf for good?")
class CloseShelf(es.Command):
    """Close a shelf."""

    shelf_id: es.Id


# --- decisions -------------------------------------------------------------------------------

FULL = 3
ShelfIsFull = es.refusal(
    "shelf-full", "the shelf holds {limit} books already", "Put the book on another shelf."
)
ShelfNotOpen = es.not_found(
    "shelf-not-open", "there is no such open shelf", "Open it with `es shelves open`."
)


def decide(shelf: Shelf, command: OpenShelf | PutBook | CloseShelf) -> Sequence[es.Event] | es.EsError:
    match command:
        case OpenShelf(label=label):
            return [] if shelf.is_open else [ShelfOpened(label)]
    if not shelf.is_open:
        return ShelfNotOpen()
    match command:
        case PutBook(title=title):
            return ShelfIsFull(limit=FULL) if shelf.books == FULL else [BookPut(title)]
        case CloseShelf():
            return [ShelfClosed(shelf.label)]


SHELF = es.Aggregate(
    name="shelf",
    initial=Shelf(),
    evolve=evolve,
    decide=decide,
    events=(ShelfOpened, BookPut, ShelfClosed),
    commands=(OpenShelf, PutBook, CloseShelf),
    upcasters={"shelf-closed.v1": shelf_closed_v1},
)

# --- projections -----------------------------------------------------------------------------


class Shelves(es.Projection):
    """One row per shelf, with the number of its books."""

    name = "shelves"
    prefixes = (SHELF.prefix,)
    key = "shelf_id"
    columns: ClassVar = {"label": "TEXT", "books": "INTEGER", "state": "TEXT"}

    def apply(self, recorded: es.Recorded, event: es.Event, row: es.Row | None) -> Sequence[es.Operation]:
        shelf_id = SHELF.id_of(recorded.stream)
        match event:
            case ShelfOpened(label=label):
                return [es.Put(shelf_id, {"label": label, "books": 0, "state": "open"})]
            case BookPut():
                return [es.Add(shelf_id, {"books": 1})]
            case ShelfClosed():
                return [es.Change(shelf_id, {"state": "closed"})]
        return []


class Labels(es.Projection):
    """One row per label with the number of open shelves; a label without one has no row."""

    name = "labels"
    prefixes = (SHELF.prefix,)
    key = "label"
    key_type = "TEXT"
    columns: ClassVar = {"shelves": "INTEGER"}
    sees_rows = True

    def key_of(self, recorded: es.Recorded, event: es.Event) -> es.Key | None:
        return event.label if isinstance(event, ShelfOpened | ShelfClosed) else None

    def apply(self, recorded: es.Recorded, event: es.Event, row: es.Row | None) -> Sequence[es.Operation]:
        match event:
            case ShelfOpened(label=label):
                return [es.Put(label, {"shelves": 1}) if row is None else es.Add(label, {"shelves": 1})]
            case ShelfClosed(label=label):
                is_last = row is not None and row["shelves"] == 1
                return [es.Delete(label) if is_last else es.Add(label, {"shelves": -1})]
        return []


AGGREGATES = (SHELF,)
PROJECTIONS = (Shelves(), Labels())
FEATURE = es.Feature(
    name="shelves", help="Keep books on shelves.", model=__name__, roles=(es.Role("shelves"),)
)
