"""The code of a projection is changed and deployed, as docs/operations.md says: no reader sees a stale row or a gap."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import es
from tests.support.system import System
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.own_store("the events of the feature are unknown to systems without it"),
]

_SERVICE = '''
from dataclasses import dataclass
from typing import Annotated, ClassVar

import es


@es.event("note-written.v1")
class NoteWritten(es.Event):
    words: int


@dataclass(frozen=True, slots=True)
class Note:
    words: int = 0


def evolve(note, event):
    return Note(note.words + event.words)


@es.command("notes.write")
class WriteNote(es.Command):
    """Write words into a note."""

    note_id: es.Id
    words: Annotated[int, es.whole(1, 1000, "The number of words.")]


def decide(note, command):
    return [NoteWritten(command.words)]


NOTE = es.Aggregate(
    name="note", initial=Note(), evolve=evolve, decide=decide, events=(NoteWritten,), commands=(WriteNote,)
)


class Notes(es.Projection):
    """A row for each note."""

    name = "notes"
    prefixes = (NOTE.prefix,)
    key = "note_id"
    columns: ClassVar = {"words": "INTEGER"}
    sees_rows = True

    def key_of(self, recorded, event):
        return NOTE.id_of(recorded.stream)

    def apply(self, recorded, event, row):
        note_id = NOTE.id_of(recorded.stream)
        columns = {"words": event.words}
        return [es.Put(note_id, columns) if row is None else es.Add(note_id, columns)]


AGGREGATES = (NOTE,)
PROJECTIONS = (Notes(),)
FEATURE = es.Feature(name="notes", help="Notes.", model=__name__, roles=(es.Role("notes"),))
'''
_CHANGED = [
    ('{"words": "INTEGER"}', '{"words": "INTEGER", "writings": "INTEGER"}'),
    ('{"words": event.words}', '{"words": event.words, "writings": 1}'),
]


class Versions:
    """Two versions of a service, each in a folder, and the commands and workers of each."""

    def __init__(self, system: System) -> None:
        self._system = system
        changed = _SERVICE
        for before, after in _CHANGED:
            assert before in changed
            changed = changed.replace(before, after)
        self._folders = [self._written("v1", _SERVICE), self._written("v2", changed)]
        system.environment |= {"ES_FEATURES": "notes_service", **self.of(1)}

    def _written(self, name: str, text: str) -> Path:
        folder = self._system.root / name
        folder.mkdir()
        (folder / "notes_service.py").write_text(text)
        return folder

    def of(self, version: int) -> dict[str, str]:
        return {"PYTHONPATH": str(self._folders[version - 1])}

    def es(self, version: int, *arguments: str) -> Any:
        return self._system.es(*arguments, environment=self.of(version))

    @contextmanager
    def worker(self, version: int) -> Iterator[None]:
        """A `projections` worker of a version, with a home of its own, as on another machine."""
        environment = {**self.of(version), "ES_HOME": str(self._system.root / f"other-{version}")}
        process = self._system.start("workers", "run", "projections", environment=environment)
        try:
            self.eventually_standing_by(version)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()

    def eventually_standing_by(self, version: int) -> None:
        def workers() -> int:
            states = self._system.status()["workers"]
            return sum(each["role"] == "projections" and each["state"] == "ready" for each in states)

        eventually(lambda: workers() == 2, f"the worker of version {version} is ready")


class Client:
    """Writes into one note without a pause and reads it, each time with the position of the last write."""

    def __init__(self, system: System, note: str) -> None:
        self._settings = system.settings
        self._note = note
        self.writes = 0
        self.problems: list[str] = []
        self._done = threading.Event()

    def _run(self) -> None:
        with es.Client(settings=self._settings) as client:
            while not self._done.is_set():
                try:
                    command = ("notes.write", {"note_id": self._note, "words": 1})
                    position = client.send(command, role="notes").position
                    self.writes += 1
                    fresh = client.get("notes", self._note, after=position)["words"]
                    plain = client.get("notes", self._note)["words"]
                except (es.Refused, es.NotFound, es.Unavailable, es.Damaged) as error:
                    self.problems.append(f"after {self.writes} writes: {error}")
                    return
                if (fresh, plain) != (self.writes, self.writes):
                    self.problems.append(f"{fresh} and {plain} words after {self.writes} writes")

    def __enter__(self) -> Client:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def goes_on(self) -> None:
        """Wait for some more reads."""
        enough = self.writes + 10
        eventually(lambda: self.writes > enough or self.problems, "the client writes and reads")
        assert self.problems == []


def rows(versions: Versions, note: str) -> dict[str, Any]:
    row: dict[str, Any] = versions.es(2, "notes", "get", note, "--json").ok().object
    return row


@pytest.mark.over("distributed", because="two versions of the workers run at once")
def test_new_code_is_checked_switched_and_rolled_back_beside_the_old_one(system: System) -> None:
    versions = Versions(system)
    system.up()
    note = system.es("ids", "next").ok().out.strip()
    before = system.pid_of("projections")
    with Client(system, note) as client, versions.worker(2):
        client.goes_on()
        checked = versions.es(2, "projections", "rebuild", "notes", "--check", "--json")
        assert checked.code == 1, checked
        assert checked.object["columns"].keys() == {"writings"}
        client.goes_on()
        versions.es(2, "projections", "switch", "notes").ok()
        client.goes_on()
        versions.es(2, "projections", "rollback", "notes").ok()
        client.goes_on()
        versions.es(2, "projections", "switch", "notes", str(checked.object["generations"][1])).ok()
        os.kill(before, signal.SIGKILL)  # the old worker restarts, and stands by
        client.goes_on()
    assert client.problems == []
    history = versions.es(2, "projections", "history", "notes", "--json").ok().objects
    current = [each for each in history if each["state"] == "current"]
    # A worker that was busy for seconds has its rows adopted by the other one: a phase with the same reason.
    reasons = [why for why, _ in groupby(each["why"] for each in current)]
    assert reasons == ["first-use", "switch", "rollback", "switch"]
    codes = [each["code"] for each in current]
    assert codes[0] == codes[2] != codes[1] == codes[3]


@pytest.mark.over("embedded", because="the workers of a home have one version")
def test_new_code_after_a_restart_serves_the_old_rows_until_the_switch(system: System) -> None:
    versions = Versions(system)
    system.up()
    note = system.es("ids", "next").ok().out.strip()
    system.es("notes", "write", note, "7").ok()
    system.es("notes", "get", note).ok()
    system.es("down").ok()

    versions.es(2, "up").ok()

    assert rows(versions, note) == {"note_id": note, "words": 7, "writings": None}
    versions.es(2, "notes", "write", note, "1").ok()
    assert "built by other code" in versions.es(2, "status").out
    assert versions.es(2, "projections", "rebuild", "notes", "--check").code == 1
    assert rows(versions, note) == {"note_id": note, "words": 7, "writings": None}
    versions.es(2, "projections", "switch", "notes").ok()
    assert rows(versions, note) == {"note_id": note, "words": 8, "writings": 2}
    refused = versions.es(2, "projections", "rollback", "notes").failed(1)
    assert "was built by" in refused.err
