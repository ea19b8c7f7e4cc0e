"""Random lives of a projection: people come, change and are erased; rebuilds are killed, checked, switched, rolled back.

After each commit of the read model a reader sees the fold of the streams up to one position, and that position never goes
back. At the end the current rows, those of a new rebuild and the fold of the streams are the same.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from adapters.log import open_log
from adapters.sqlite.read_model import SqliteReadModel
from domain.kernel.events import Position
from domain.kernel.ports.read_model import Generation, GenerationState, Why
from domain.kernel.projection import Value
from domain.users.account import USER
from domain.users.projection import USERS
from tests.support import effort
from tests.support.accounts import change, delete, erase, rename
from tests.support.parts import Crash
from tests.support.read_side import ReadSide

_UNKNOWN = "user-exploded.v9"
_WEIGHTS = {
    "register": 4,
    "write": 6,
    "park": 1,
    "project": 3,
    "rebuild": 2,
    "check": 3,
    "switch": 3,
    "rollback": 4,
    "diff": 2,
    "cancel": 1,
    "prune": 2,
    "work": 5,
}
_STEPS = st.lists(
    st.tuples(
        st.sampled_from([name for name, weight in _WEIGHTS.items() for _ in range(weight)]),
        st.integers(0, 119),
    ),
    min_size=10,
    max_size=25,
)

Rows = dict[int, dict[str, Value]]


def folded(system: ReadSide, until: Position) -> Rows:
    """The rows that the streams of users make up to a position, told without the projection."""
    rows: Rows = {}
    parked: set[str] = set()
    for event in system.store.read_all(0, 100_000, prefixes=[USER.prefix]):
        if event.position > until:
            break
        if event.type == _UNKNOWN:
            parked.add(event.stream)
        if event.stream in parked:
            continue
        row = rows.setdefault(USER.id_of(event.stream), {"status": "active"})
        data = json.loads(event.data)
        row |= {name: data[name] for name in ("email", "name") if name in data}
        if event.type.startswith("user-deleted"):
            row["status"] = "deleted"
        if event.type.startswith("user-erased"):
            row |= {"status": "erased", "email": None, "name": None}
        row["version"] = event.version
    return rows


class Reader:
    """Reads the current generation, and checks what it sees: at any moment, from any thread."""

    def __init__(self, system: ReadSide) -> None:
        self._system = system
        self._lock = threading.Lock()
        self._position: Position = 0
        self._rows: Rows = {}
        self.problems: list[str] = []

    def look(self) -> None:
        with self._lock:
            before, rows, after = self._current(), self.rows(), self._current()
            if before != after:
                return  # it was switched or filled between these reads
            for key, known in self._rows.items():
                if key not in rows or int(rows[key]["version"] or 0) < int(known["version"] or 0):
                    self.problems.append(f"{key}: {known} became {rows.get(key)}")
            if after.checkpoint < self._position:
                self.problems.append(f"back from {self._position} to {after.checkpoint}")
            if rows != folded(self._system, after.checkpoint):
                self.problems.append(f"generation {after.number} is no fold up to {after.checkpoint}")
            self._position, self._rows = after.checkpoint, rows

    def _current(self) -> Generation:
        return self._system.read_model.prepare(USERS, now_us=0)

    def rows(self) -> Rows:
        found = {}
        for row in self._system.read_model.rows(USERS):
            shown = {name: row[name] for name in ("email", "name", "status", "version")}
            found[int(row["user_id"] or 0)] = shown
        return found


class Commits:
    """Runs a look of the reader after each commit of the read model, and a disturbance after a chosen one."""

    def __init__(self, read_model: SqliteReadModel, look: Callable[[], None]) -> None:
        self._writing = read_model._database.writing
        self._look = look
        self._left = 0
        self._act: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        read_model._database.writing = self.writing  # type: ignore[method-assign]

    def disturb(self, after: int, act: Callable[[], object]) -> None:
        """Act after that many commits, counted from now; 0 means never."""
        with self._lock:
            self._left, self._act = after, act

    @contextmanager
    def writing(self) -> Iterator[Any]:
        with self._writing() as connection:
            yield connection
        with self._lock:
            self._left -= 1
            is_here = self._left == 0
        self._look()
        if is_here:
            self._act()


class Lives:
    def __init__(self, system: ReadSide, patch: pytest.MonkeyPatch) -> None:
        self.system = system
        self.reader = Reader(system)
        self.commits = Commits(system.read_model, self.reader.look)
        self.people: list[int] = []
        patch.setattr(system.rebuilds, "resume", lambda _: None)  # `work` runs what was begun
        system.prepare()

    def step(self, what: str, number: int) -> None:
        getattr(self, what)(number)
        self.reader.look()
        assert not self.reader.problems, (what, self.reader.problems)

    # --- people --------------------------------------------------------------------------------

    def register(self, number: int) -> None:
        self.people += [self.system.a_user(f"{uuid4().hex}@example.com") for _ in range(1 + number % 3)]

    def write(self, number: int) -> None:
        if not self.people:
            self.register(0)
        user = self.people[number // 10 % len(self.people)]
        verbs = [
            rename(user, f"Name {number}"),
            rename(user, f"Other {number}"),
            change(user, f"{uuid4().hex}@example.com"),
            delete(user),
            erase(user),
        ]
        self.system.handle(verbs[number % len(verbs)])  # it may be refused

    def park(self, number: int) -> None:
        if self.people:
            self.system.store_event(self.people[number % len(self.people)], _UNKNOWN)

    def project(self, number: int) -> None:
        """Project. A third of the projectors is killed after a commit."""
        self.commits.disturb(1 + number // 3 if number % 3 == 0 else 0, self._kill)
        with suppress(Crash):
            self.system.project()
        self.commits.disturb(0, self._kill)

    # --- generations ---------------------------------------------------------------------------

    def _ask(self, kind: str, **body: object) -> None:
        self.system.ask(f"projections.{kind}", name="users", **body)  # it may be refused

    def rebuild(self, number: int) -> None:
        self._ask("rebuild")
        self.work(number)

    def check(self, number: int) -> None:
        self._ask("rebuild", check=True)
        self.work(number)

    def switch(self, number: int) -> None:
        self._ask("switch", **({"generation": 1 + number % 6} if number % 2 else {}))
        self.work(number)

    def rollback(self, number: int) -> None:
        self._ask("switch", rollback=True)
        self.work(number)

    def diff(self, number: int) -> None:
        self._ask("diff")
        self.work(number)

    def cancel(self, _: int) -> None:
        self._ask("cancel")

    def prune(self, number: int) -> None:
        self._ask("prune", keep=number % 3)

    def work(self, number: int) -> None:
        """Carry on what is unfinished, with a disturbance after a commit: often the process is killed."""
        acts = [
            self._kill,
            self._kill,
            lambda: self.cancel(number),
            lambda: self.prune(number),
            lambda: self._write_and_project(number),
            lambda: self._write_and_project(number),
        ]
        self.commits.disturb(1 + number // 12, acts[number % len(acts)])
        rebuild = self.system.rebuild()
        with suppress(Crash):
            rebuild.run(lambda: False, begins=None)
            rebuild.compare(lambda: False)
        self.commits.disturb(0, self._kill)

    def _kill(self) -> None:
        raise Crash("killed")

    def _write_and_project(self, number: int) -> None:
        projecting = threading.Thread(target=self._project_more, args=(number,))
        projecting.start()
        projecting.join()

    def _project_more(self, number: int) -> None:
        self.register(number)
        self.write(number)
        self.system.project()

    # --- the end -------------------------------------------------------------------------------

    def end(self) -> None:
        """Finish everything, check, and rebuild: all rows are the fold of the streams."""
        system = self.system
        while any(each.state is GenerationState.BUILDING for each in system.generations()):
            system.rebuild().run(lambda: False, begins=None)
        system.project()
        expected = folded(system, system.store.head())
        assert self.reader.rows() == expected
        generation = system.read_model.begin_rebuild(USERS, now_us=system.now_us, why=Why.CHECK)
        system.rebuild().run(lambda: False, begins=None)
        report = system.answer("projections.report", name="users", generation=generation.number)
        assert report["result"] == ("untrusted" if any(report["parked"]) else "equal")
        assert (report["differ"]["rows"], report["only_first"]["rows"]) == (0, 0)
        assert (report["only_second"]["rows"], report["rows"]) == (0, [len(expected)] * 2)
        system.rebuilt()
        assert self.reader.rows() == expected


def live(steps: Iterable[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        home = Path(folder)
        patch.setattr("workers.projections.next_batch.REBUILD_BATCH", 3)
        patch.setattr("workers.projections.comparison.PAGE", 2)
        log = open_log(f"log-of-{folder}", home / "test.log")
        with (
            closing(SqliteReadModel(home / "read.db")) as model,
            closing(ReadSide(home / "accounts", model, log)) as system,
        ):
            lives = Lives(system, patch)
            for what, number in steps:
                lives.step(what, number)
            lives.end()


@settings(
    max_examples=effort.sized(12, 400),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking such lives takes minutes
)
@given(steps=_STEPS)
def test_rows_are_the_fold_of_the_streams_while_generations_come_and_go(
    steps: list[tuple[str, int]],
) -> None:
    live(steps)


def test_a_busy_life_with_every_step() -> None:
    first = [("register", 2), ("project", 0), ("check", 119), ("write", 1), ("switch", 118), ("write", 12)]
    live([*first, ("rollback", 4), ("park", 0), ("project", 0), ("diff", 8), ("rollback", 119), ("prune", 0)])
