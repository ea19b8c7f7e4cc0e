"""Random lives of a projection: people come, change and are erased; rebuilds are killed, checked, switched, rolled back.

After each commit of the read model a reader sees the fold of the streams up to one position, and that position never goes
back. At the end the current rows, those of a new rebuild and the fold of the streams are the same.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from adapters.log import open_log
from domain.kernel.events import Event, Position, Recorded
from domain.kernel.ports.read_model import Generation, GenerationState, Parked, Why
from domain.kernel.projection import Value
from domain.users.account import USER
from domain.users.projection import USERS
from tests.support import effort
from tests.support.accounts import change, delete, erase, rename
from tests.support.commits import Commits
from tests.support.model_places import Places
from tests.support.parts import Crash
from tests.support.read_side import ReadSide

_UNKNOWN = "user-exploded.v9"
_WEIGHTS = {
    "register": 4,
    "write": 6,
    "park": 1,
    "mend": 1,
    "retry": 1,
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


def folded(system: ReadSide, until: Position, parked: Iterable[Parked] = ()) -> Rows:
    """The rows that the streams of users make up to a position, without parked events, told without the projection."""
    rows: Rows = {}
    left_out = {each.position for each in parked}
    for event in system.store.read_all(0, 100_000, prefixes=[USER.prefix]):
        if event.position > until:
            break
        if event.position in left_out:
            continue
        row = rows.setdefault(USER.id_of(event.stream), {"status": "active"})
        _, data = system.codec.stored(event)
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
            before, rows = self._current(), self.rows()
            parked, after = self._system.read_model.parked(USERS, before), self._current()
            if before != after:
                return  # it was switched or filled between these reads
            for key, known in self._rows.items():
                if key not in rows or int(rows[key]["version"] or 0) < int(known["version"] or 0):
                    self.problems.append(f"{key}: {known} became {rows.get(key)}")
            if after.checkpoint < self._position:
                self.problems.append(f"back from {self._position} to {after.checkpoint}")
            if rows != folded(self._system, after.checkpoint, parked):
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


class Lives:
    def __init__(self, system: ReadSide, patch: pytest.MonkeyPatch) -> None:
        self.system = system
        self.reader = Reader(system)
        self.commits = Commits(system.read_model, self.reader.look)
        self.people: list[int] = []
        patch.setattr(system.rebuilds, "resume", lambda _: None)  # `work` runs what was begun
        self.is_mended = False
        self._decode = system.codec.decode
        patch.setattr(system.codec, "decode", self._decoded)
        system.prepare()

    def step(self, what: str, number: int) -> None:
        getattr(self, what)(number)
        self.reader.look()
        assert not self.reader.problems, (what, self.reader.problems)

    def _decoded(self, recorded: Recorded, **opening: Any) -> Event:
        """The code that decodes: at first it does not know one type of event."""
        if recorded.type == _UNKNOWN and self.is_mended:
            return Event()
        return self._decode(recorded, **opening)

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

    def mend(self, _: int) -> None:
        self.is_mended = True

    def retry(self, _: int) -> None:
        self._ask("parked.retry", all=True)

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
        self.is_mended = True
        system.answer("projections.parked.retry", name="users", all=True)
        expected = folded(system, system.store.head())
        assert self.reader.rows() == expected
        generation = system.read_model.begin_rebuild(USERS, now_us=system.now_us, why=Why.CHECK)
        system.rebuild().run(lambda: False, begins=None)
        report = system.answer("projections.report", name="users", generation=generation.number)
        assert (report["result"], report["parked"]) == ("equal", [0, 0])
        assert (report["differ"]["rows"], report["only_first"]["rows"]) == (0, 0)
        assert (report["only_second"]["rows"], report["rows"]) == (0, [len(expected)] * 2)
        system.rebuilt()
        assert self.reader.rows() == expected


def live(places: Places, steps: Iterable[tuple[str, int]]) -> None:
    with ExitStack() as ending:
        folder = ending.enter_context(tempfile.TemporaryDirectory())
        patch = ending.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("workers.projections.next_batch.REBUILD_BATCH", 3)
        patch.setattr("workers.projections.comparison.PAGE", 2)
        log = open_log(f"log-of-{folder}", Path(folder) / "test.log")
        model = ending.enter_context(places.new())()
        lives = Lives(ending.enter_context(closing(ReadSide(Path(folder) / "accounts", model, log))), patch)
        for what, number in steps:
            lives.step(what, number)
        lives.end()


@pytest.mark.parametrize("part", range(effort.sized(1, 10)))
def test_rows_are_the_fold_of_the_streams_while_generations_come_and_go(places: Places, part: int) -> None:
    @seed(part)
    @settings(
        max_examples=effort.sized(8 if places.is_sqlite else 4, 40),
        phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking such lives takes minutes
    )
    @given(steps=_STEPS)
    def lives_of(steps: list[tuple[str, int]]) -> None:
        live(places, steps)

    lives_of()


def test_a_busy_life_with_every_step(places: Places) -> None:
    first = [("register", 2), ("project", 0), ("check", 119), ("write", 1), ("switch", 118), ("write", 12)]
    live(
        places,
        [*first, ("rollback", 4), ("park", 0), ("project", 0), ("diff", 8), ("rollback", 119), ("prune", 0)],
    )


def test_a_rollback_after_parked_events_were_mended_shows_no_older_rows(places: Places) -> None:
    parks = [("register", 2), ("park", 0), ("write", 0), ("project", 1), ("rebuild", 118)]
    live(places, [*parks, ("mend", 0), ("retry", 0), ("rollback", 118)])
