"""A feature of an outside package, in one file: shelves with books. `ES_FEATURES=tests.support.shelves` registers it.

It has what a feature can have: an aggregate with commands whose annotations are the parser, the bulk format and the
command line, a projection with whole-number keys that counts, and one with text keys that sees the row before the
event and removes rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from domain.kernel.aggregate import Aggregate
from domain.kernel.commands import Command, Input
from domain.kernel.errors import EsError, InvalidInput, Kind, Refusal
from domain.kernel.events import Event, Recorded
from domain.kernel.feature import Feature, Role
from domain.kernel.ids import parse_id
from domain.kernel.projection import Add, Change, Delete, Key, Operation, Projection, Put, Row

# --- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShelfOpened(Event):
    label: str
    type: ClassVar[str] = "shelf-opened.v1"


@dataclass(frozen=True, slots=True)
class BookPut(Event):
    title: str
    type: ClassVar[str] = "book-put.v1"


@dataclass(frozen=True, slots=True)
class ShelfClosed(Event):
    label: str
    type: ClassVar[str] = "shelf-closed.v2"


def shelf_closed_v1(data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The first version had the label as `name`."""
    return "shelf-closed.v2", {"label": data["name"]}


# --- state -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shelf:
    label: str = ""
    books: int = 0
    is_open: bool = False


def evolve(shelf: Shelf, event: Event) -> Shelf:
    match event:
        case ShelfOpened(label=label):
            return Shelf(label, is_open=True)
        case BookPut():
            return replace(shelf, books=shelf.books + 1)
        case ShelfClosed():
            return replace(shelf, is_open=False)
    return shelf


# --- commands --------------------------------------------------------------------------------


def parse_shelf_id(value: object) -> int:
    return parse_id(value, field="shelf_id")


def parse_label(value: object) -> str:
    if not isinstance(value, str) or not value.isalpha():
        raise InvalidInput("label", "must be a word")
    return value


def parse_title(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInput("title", "must be text")
    return value


ShelfId = Annotated[int, Input(parse_shelf_id, "The shelf's id.", "ID", "1024")]


@dataclass(frozen=True, slots=True)
class OpenShelf(Command):
    """Open a shelf."""

    shelf_id: ShelfId
    label: Annotated[str, Input(parse_label, "What is on it, in one word.", "LABEL")]
    wire: ClassVar[str] = "open-shelf"
    request: ClassVar[str] = "shelves.open"
    creates: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class PutBook(Command):
    """Put a book on a shelf."""

    shelf_id: ShelfId
    title: Annotated[str, Input(parse_title, "The book's title.", "TITLE")]
    wire: ClassVar[str] = "put-book"
    request: ClassVar[str] = "shelves.put-book"
    done: ClassVar[str] = "put the book on shelf {shelf_id}"


@dataclass(frozen=True, slots=True)
class CloseShelf(Command):
    """Close a shelf."""

    shelf_id: ShelfId
    wire: ClassVar[str] = "close-shelf"
    request: ClassVar[str] = "shelves.close"
    question: ClassVar[str] = "Close this shelf for good?"


# --- decisions -------------------------------------------------------------------------------

FULL = 3


class ShelfIsFull(Refusal):
    code = "shelf-full"
    hint = "Put the book on another shelf."

    def __str__(self) -> str:
        return f"the shelf holds {FULL} books already"


class ShelfNotOpen(EsError):
    code = "shelf-not-open"
    kind = Kind.NOT_FOUND
    hint = "Open it with `es shelves open`."

    def __str__(self) -> str:
        return "there is no such open shelf"


def decide(shelf: Shelf, command: OpenShelf | PutBook | CloseShelf) -> Sequence[Event] | EsError:
    match command:
        case OpenShelf(label=label):
            return [] if shelf.is_open else [ShelfOpened(label)]
    if not shelf.is_open:
        return ShelfNotOpen()
    match command:
        case PutBook(title=title):
            return ShelfIsFull() if shelf.books == FULL else [BookPut(title)]
        case CloseShelf():
            return [ShelfClosed(shelf.label)]


SHELF: Aggregate[Shelf, OpenShelf | PutBook | CloseShelf] = Aggregate(
    name="shelf",
    initial=Shelf(),
    evolve=evolve,
    decide=decide,
    events=(ShelfOpened, BookPut, ShelfClosed),
    commands=(OpenShelf, PutBook, CloseShelf),
    upcasters={"shelf-closed.v1": shelf_closed_v1},
)

# --- projections -----------------------------------------------------------------------------


class Shelves(Projection):
    """One row per shelf, with the number of its books."""

    name = "shelves"
    prefixes = (SHELF.prefix,)
    key = "shelf_id"
    columns: ClassVar = {"label": "TEXT", "books": "INTEGER", "state": "TEXT"}

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        shelf_id = SHELF.id_of(recorded.stream)
        match event:
            case ShelfOpened(label=label):
                return [Put(shelf_id, {"label": label, "books": 0, "state": "open"})]
            case BookPut():
                return [Add(shelf_id, {"books": 1})]
            case ShelfClosed():
                return [Change(shelf_id, {"state": "closed"})]
        return []


class Labels(Projection):
    """One row per label with the number of open shelves; a label without one has no row."""

    name = "labels"
    prefixes = (SHELF.prefix,)
    key = "label"
    key_type = "TEXT"
    columns: ClassVar = {"shelves": "INTEGER"}
    sees_rows = True

    def key_of(self, recorded: Recorded, event: Event) -> Key | None:
        return event.label if isinstance(event, ShelfOpened | ShelfClosed) else None

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        match event:
            case ShelfOpened(label=label):
                return [Put(label, {"shelves": 1}) if row is None else Add(label, {"shelves": 1})]
            case ShelfClosed(label=label):
                is_last = row is not None and row["shelves"] == 1
                return [Delete(label) if is_last else Add(label, {"shelves": -1})]
        return []


AGGREGATES = (SHELF,)
PROJECTIONS = (Shelves(), Labels())
FEATURE = Feature(name="shelves", help="Keep books on shelves.", model=__name__, roles=(Role("shelves"),))
