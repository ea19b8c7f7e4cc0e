"""The journals and the stored events of a run in a database file, sorted, so that memory stays flat.

Promise: it is private, lies in the folder of the first journal, and is removed at the end. Refusal: it is no store, and
nothing outlives the check that made it.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from json import JSONDecodeError, dumps, loads
from pathlib import Path
from typing import Any
from uuid import UUID

from domain.kernel.errors import InvalidInput
from domain.kernel.system import ASSIGNMENTS, CommandRemembered, IdAssigned, ReservationAbandoned

UNANSWERED, ACCEPTED, REFUSED = range(3)
"""The outcomes of a command."""

Progress = Callable[[str, int], None]
"""Is told a step (`journals`, `events`, `commands`, `rows`, `users`) and how much of it is done, or of `owed erasures` how
many are left; and `waiting` with the seconds for which a part has been unavailable."""

_NO_EFFECT = ("refused", "invalid", "not-found")
"""Kinds of errors after which a command has no effect. After another kind, or none, its outcome is unknown."""
_BATCH = 5000
_TABLES = """
CREATE TABLE commands (
    journal INTEGER, n INTEGER, id BLOB, operation TEXT, kind TEXT, input TEXT, id_fields TEXT, at_us INTEGER,
    line INTEGER, outcome INTEGER NOT NULL, answered INTEGER, id_field TEXT, instance INTEGER, version INTEGER, position INTEGER,
    PRIMARY KEY (journal, n)
) WITHOUT ROWID;
CREATE TABLE issued (lane INTEGER, step INTEGER, first INTEGER, count INTEGER, journal INTEGER, n INTEGER);
CREATE TABLE events (
    position INTEGER PRIMARY KEY, prefix TEXT, instance INTEGER, version INTEGER, type TEXT, command TEXT,
    command_id BLOB, actor TEXT
);
CREATE TABLE created (prefix TEXT, instance INTEGER, kind TEXT, PRIMARY KEY (prefix, instance)) WITHOUT ROWID;
"""
_INDEXES = """
CREATE UNIQUE INDEX IF NOT EXISTS commands_by_id ON commands (id) WHERE id IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_by_command ON events (command_id);
CREATE INDEX IF NOT EXISTS events_by_stream ON events (prefix, instance, version);
"""
KERNEL = ", ".join(f"'{each.type}'" for each in (CommandRemembered, IdAssigned, ReservationAbandoned))
"""The types of events that change no state, for questions in SQL."""

_CREATED = f"""
INSERT OR IGNORE INTO created SELECT e.prefix, e.instance, c.kind
FROM events e JOIN commands c ON c.id = e.command_id
WHERE e.version = 0 AND e.instance IS NOT NULL AND e.type NOT IN ({KERNEL})
"""  # noqa: S608  # names of event types of this program
_SENT = "INSERT INTO commands VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL, NULL, NULL)"
_ANSWERED = """
UPDATE commands SET answered = ?, outcome = ?, id_field = ?, instance = ?, version = ?, position = ?
WHERE journal = ? AND n = ?
"""
_ISSUED = "INSERT INTO issued VALUES (?, ?, ?, ?, ?, ?)"
_STORED = "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class InvalidJournal(InvalidInput):
    """A journal is not what a load process writes."""

    code = "invalid-journal"
    hint: str = "Give each journal of the run once, as its load process wrote it."


class Scratch:
    """What a run sent, what was answered and what was stored, in tables. For one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=".ledger-", dir=folder)
        self.sql = sqlite3.connect(Path(self._folder.name) / "scratch", isolation_level=None)
        # It is of no use after a crash, so nothing is kept for one.
        self.sql.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_TABLES}")

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self.sql.close()
        self._folder.cleanup()

    # --- journals ------------------------------------------------------------------------------

    def load(self, journals: Sequence[Path], on_progress: Progress) -> None:
        """Read journals of any number of load processes. Raises InvalidJournal."""
        done = 0
        for number, path in enumerate(journals):
            if not path.is_file():
                raise InvalidJournal(str(path), "is no file")
            lines = _lines(path)
            while batch := list(islice(lines, _BATCH)):
                self._take(number, path, batch)
                on_progress("journals", done := done + len(batch))

    def _take(self, number: int, path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        """Store requests before replies: a reply comes after its request."""
        try:
            sent = [_sent(number, line) for line in lines if "in" in line]
            replies = [line for line in lines if "in" not in line]
            answers = [_answer(number, line) for line in replies if "ranges" not in (line.get("ok") or {})]
            issued = [row for line in replies for row in _issued(number, line)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidJournal(str(path), "holds a line that no load process writes") from error
        with self._transaction():
            try:
                self.sql.executemany(_SENT, sent)
            except sqlite3.IntegrityError:
                raise InvalidJournal(str(path), "holds a number twice") from None
            found = self.sql.executemany(_ANSWERED, answers).rowcount
            if answers and found != len(answers):
                raise InvalidJournal(str(path), "holds a reply without its request")
            self.sql.executemany(_ISSUED, issued)

    # --- events --------------------------------------------------------------------------------

    def add_events(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Store a page of `events.read`. An event that is stored already is left as it is."""
        with self._transaction():
            self.sql.executemany(_STORED, map(_event, events))

    def sort(self) -> None:
        """Prepare questions, once journals and events are read. Raises InvalidJournal.

        It fills `created`: the instances whose first event is of a command of the journals. It may be called once more after
        further events.
        """
        try:
            # Not before the rows: building an index at once is faster than with each row.
            self.sql.executescript(_INDEXES)
        except sqlite3.IntegrityError:
            raise InvalidJournal("journals", "name a command id twice") from None
        self.sql.execute(_CREATED)

    # --- questions -----------------------------------------------------------------------------

    def rows(self, question: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """The rows of a question, one at a time. Other questions may be asked meanwhile."""
        return iter(self.sql.execute(question, values))

    def number(self, question: str, *values: object) -> int:
        """The only value of a question; 0 for none."""
        found = self.sql.execute(question, values).fetchone()
        return int(found[0] or 0) if found else 0

    def _transaction(self) -> _Transaction:
        return _Transaction(self.sql)


class _Transaction:
    def __init__(self, sql: sqlite3.Connection) -> None:
        self._sql = sql

    def __enter__(self) -> None:
        self._sql.execute("BEGIN")

    def __exit__(self, *_: object) -> None:
        self._sql.execute("COMMIT")  # also after an error: the whole file is dropped then


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of a journal, each with its number as `line`. Raises InvalidJournal.

    The last one is left out if a kill has cut it short.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if not line.endswith(b"\n"):
                return
            try:
                read = loads(line)
            except (JSONDecodeError, UnicodeDecodeError):
                read = None
            if not isinstance(read, dict):
                raise InvalidJournal(str(path), "holds a line that is no JSON object")
            yield {**read, "line": number}


def _sent(number: int, line: Mapping[str, Any]) -> tuple[object, ...]:
    """A request as a row of commands. A request for ids has no command id."""
    id_ = None if line["id"] is None else UUID(line["id"]).bytes
    fields = [name for name in line["in"] if name.endswith("_id")]
    # Only of users the input is needed later.
    given = dumps(line["in"]) if line["kind"].startswith("users.") else None
    named = f",{','.join(fields)},"
    return (
        number,
        line["n"],
        id_,
        line["op"],
        line["kind"],
        given,
        named,
        line["at"],
        line["line"],
        UNANSWERED,
    )


def _answer(number: int, line: Mapping[str, Any]) -> tuple[object, ...]:
    if "ok" not in line:
        line["error"]  # raises KeyError for a line that is no reply
        outcome = REFUSED if line.get("kind") in _NO_EFFECT else UNANSWERED
        return line["line"], outcome, None, None, None, None, number, line["n"]
    reply = line["ok"]
    field = next((name for name in reply if name.endswith("_id") and name != "command_id"), None)
    instance = None if field is None else int(reply[field])
    said = reply["version"], int(reply["position"])
    return line["line"], ACCEPTED, field, instance, *said, number, line["n"]


def _issued(number: int, line: Mapping[str, Any]) -> Iterator[tuple[int, ...]]:
    """The ranges of a reply, each as an interval of whole numbers `first` to `first + count - 1` in a lane of its step."""
    for each in (line.get("ok") or {}).get("ranges", ()):
        lane_first, step, count = int(each["first"]), int(each["step"]), int(each["count"])
        yield lane_first % step, step, lane_first // step, count, number, int(line["n"])


def _event(event: Mapping[str, Any]) -> tuple[object, ...]:
    """An event as a row. Of a stream whose name ends with no id the instance is None."""
    prefix, _, id_ = event["stream"].rpartition("-")
    is_number = id_.isascii() and id_.isdecimal() and len(id_) < 20 and int(id_) < 1 << 63
    is_instance = is_number and not prefix.startswith(ASSIGNMENTS)  # those end with a command id
    command_id = event["command_id"]
    return (
        event["position"],
        f"{prefix}-" if is_instance else event["stream"],
        int(id_) if is_instance else None,
        event["version"],
        event["type"],
        event["command"],
        None if command_id is None else UUID(command_id).bytes,
        event["actor"],
    )
