"""Projections: pure functions from events to row operations.

Promise: live updates and rebuilds run the same code, and `applied` defines the effect of every operation.
Refusal: nothing is read, stored or opened here. Personal fields stay sealed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from domain.kernel.events import Event, Recorded

Value = str | int | None
Key = int | str
Row = Mapping[str, Value]
"""The columns of a row, without its key."""

KEY_BYTES = 1_000
"""The largest text key in UTF-8. PostgreSQL indexes no more than 2,704 bytes, and a key may double when stored."""
_LIMIT = 1 << 63
_INTEGERS = range(-_LIMIT, _LIMIT)


def storable(key: Key) -> Key:
    """The key. Raises ValueError for one that a read model cannot store: the projector parks the event."""
    if isinstance(key, str):
        if not (len(key) <= KEY_BYTES and key.isascii()) and len(key.encode()) > KEY_BYTES:
            raise ValueError(f"a text key has at most {KEY_BYTES} bytes")
    elif key not in _INTEGERS:
        raise ValueError("a key has at most 64 bits")
    return key


# Operations are not frozen, and check their keys in `__init__`: a rebuild makes one for each event, and a frozen
# dataclass takes three times as long to make.


@dataclass(init=False, slots=True)
class Put:
    """Insert a row, or replace it. `row` has every column."""

    key: Key
    row: Row

    def __init__(self, key: Key, row: Row) -> None:
        self.key = key if type(key) is int and -_LIMIT <= key < _LIMIT else storable(key)
        self.row = row


@dataclass(init=False, slots=True)
class Change:
    """Set some columns of a row. Without such a row nothing happens."""

    key: Key
    columns: Row

    def __init__(self, key: Key, columns: Row) -> None:
        self.key = key if type(key) is int and -_LIMIT <= key < _LIMIT else storable(key)
        self.columns = columns


@dataclass(init=False, slots=True)
class Add:
    """Add to whole-number columns of a row; null counts as 0. Without such a row nothing happens."""

    key: Key
    columns: Mapping[str, int]

    def __init__(self, key: Key, columns: Mapping[str, int]) -> None:
        self.key = key if type(key) is int and -_LIMIT <= key < _LIMIT else storable(key)
        self.columns = columns


@dataclass(init=False, slots=True)
class Delete:
    """Remove a row. Without such a row nothing happens."""

    key: Key

    def __init__(self, key: Key) -> None:
        self.key = key if type(key) is int and -_LIMIT <= key < _LIMIT else storable(key)


Operation = Put | Change | Add | Delete


class Projection:
    """Base of all projections.

    `columns` maps each column except the key to its SQL type, INTEGER or TEXT; `key_type` is one of them too.
    `prefixes` are those of the streams whose events it reads; None means all streams.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raise it after a change of rows that the golden history does not show: see `behaviour.py`."""
    prefixes: ClassVar[Sequence[str] | None]
    decodes: ClassVar[bool] = True
    """Whether `apply` needs the decoded event. Otherwise it gets `Event()`, and events of unknown types count too."""
    key: ClassVar[str]
    key_type: ClassVar[str] = "INTEGER"
    columns: ClassVar[Mapping[str, str]]
    usual: ClassVar[Mapping[str, str]] = {}
    """The text that most rows have in a column by which rows are listed: small letters, digits and hyphens. An index leads
    to the rows with another one."""
    sees_rows: ClassVar[bool] = False
    """Whether `apply` needs the row of `key_of`. Each batch then reads its rows first."""

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        """The operations of an event, in order.

        With `sees_rows`, `row` is the row of `key_of` before the event, or None without one.
        Otherwise `row` is None. Raises ValueError, TypeError or KeyError for an event to be parked.
        """
        raise NotImplementedError

    def key_of(self, recorded: Recorded, event: Event) -> Key | None:
        """The key of the row that `apply` needs, or None. Only called with `sees_rows`."""
        return None


def unusual_columns(projection: Projection, where: Mapping[str, Value]) -> list[str]:
    """The columns of a filter whose index leads to every row that it lets through."""
    return [name for name, value in where.items() if projection.usual.get(name, value) != value]


def applied(row: Row | None, operation: Operation) -> Row | None:
    """The row of the operation's key after the operation; None means no row.

    Raises ValueError if a sum leaves 64 bits or a column to add to holds text.
    """
    if isinstance(operation, Put):
        return operation.row
    if row is None or isinstance(operation, Delete):
        return None
    if isinstance(operation, Change):
        return {**row, **operation.columns}
    return {**row, **{name: _sum(row.get(name), number) for name, number in operation.columns.items()}}


def _sum(value: Value, number: int) -> int:
    if isinstance(value, str):
        raise ValueError("only whole numbers can be added to")
    total = (value or 0) + number
    if total not in _INTEGERS:
        raise ValueError("a sum leaves 64 bits")
    return total


# --- ranges of keys --------------------------------------------------------------------------


def key_bounds(after: Key | None, prefix: str) -> dict[str, Key]:
    """The bounds of keys after `after` that start with `prefix`, by operator: at most one lower and one upper."""
    bounds: dict[str, Key] = {}
    if after is not None and (not prefix or str(after) >= prefix):
        bounds[">"] = after
    elif prefix:
        bounds[">="] = prefix
    if following := _after_prefix(prefix):
        bounds["<"] = following
    return bounds


def _after_prefix(prefix: str) -> str:
    """The first text, by code point, after all that start with `prefix`. Empty if there is none."""
    start = prefix.rstrip("\U0010ffff")
    if not start:
        return ""
    following = ord(start[-1]) + 1
    return start[:-1] + chr(0xE000 if following == 0xD800 else following)  # no stored text has a surrogate


# --- a batch in few statements ---------------------------------------------------------------


@dataclass(slots=True)
class Update:
    """The effect of several `Change`s and `Add`s of one row: columns to set, and other columns to add to."""

    key: Key
    columns: Row
    added: Mapping[str, int]


class Shape(NamedTuple):
    """Operations of one shape fit into one statement: their kind, the columns to set and those to add to."""

    kind: type[Put | Update | Delete]
    columns: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


class Merged(dict[Shape, list[tuple[Value, ...]]]):
    """Operations by shape, at most one for each key: the values of its columns, of those to add to, and the key."""


_Effect = Put | Change | Update | Delete


def merged(projection: Projection, operations: Iterable[Operation] | Merged) -> Merged:
    """The same effect with at most one operation for each key, so that their order is free. What is merged stays as it is.

    Raises ValueError if a sum of additions leaves 64 bits, a column to add to is not a whole number, or a column is none of
    the projection.
    """
    if isinstance(operations, Merged):
        return operations
    last: dict[Key, _Effect] = {}
    for operation in operations:
        before = last.get(operation.key)
        if before is None and not isinstance(operation, Add):
            last[operation.key] = operation
        else:
            last[operation.key] = _merge(projection, before, operation)
    rows: dict[
        tuple[type[Put | Update | Delete], tuple[str, ...], tuple[str, ...]], list[tuple[Value, ...]]
    ] = {}
    for effect in last.values():
        if isinstance(effect, Put):
            row = effect.row
            rows.setdefault((Put, tuple(row), ()), []).append((*row.values(), effect.key))
        elif isinstance(effect, Delete):
            rows.setdefault((Delete, (), ()), []).append((effect.key,))
        else:
            added = effect.added if isinstance(effect, Update) else {}
            if effect.columns or added:
                shape = (Update, tuple(effect.columns), tuple(added))
                values = (*effect.columns.values(), *added.values(), effect.key)
                rows.setdefault(shape, []).append(values)
    for _, *named in rows:
        if unknown := {name for names in named for name in names} - projection.columns.keys():
            raise ValueError(f"{projection.name} has no column {', '.join(sorted(unknown))}")
    return Merged({Shape(*shape): found for shape, found in rows.items()})


def _merge(projection: Projection, before: _Effect | None, operation: Operation) -> _Effect:
    if isinstance(operation, Add) and any(
        projection.columns.get(name) != "INTEGER" for name in operation.columns
    ):
        raise ValueError("only whole numbers can be added to")
    if isinstance(operation, Put | Delete):
        return operation
    if isinstance(before, Delete):
        return before
    if isinstance(before, Put):
        return Put(before.key, applied(before.row, operation) or {})
    columns = before.columns if before else {}
    added = before.added if isinstance(before, Update) else {}
    if isinstance(operation, Change):
        kept = {name: number for name, number in added.items() if name not in operation.columns}
        return Update(operation.key, {**columns, **operation.columns}, kept)
    sums = {name: _sum(columns.get(name, added.get(name)), n) for name, n in operation.columns.items()}
    return Update(
        operation.key,
        {name: sums.get(name, value) for name, value in columns.items()},
        {**added, **{name: total for name, total in sums.items() if name not in columns}},
    )
