"""Two workers project and rebuild at once and are killed, an operator and commands go on, and readers poll all the time.

Each answer to a reader is the fold of the streams up to one position, and that position never goes back.
"""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from adapters.log import open_log
from adapters.wiring import open_codec
from domain.kernel.errors import EsError
from domain.kernel.events import Recorded
from domain.kernel.ports.read_model import GenerationState, ReadModel
from domain.kernel.projection import Value
from domain.users.account import USER
from domain.users.projection import USERS
from tests.support import effort
from tests.support.accounts import change, delete, erase, rename
from tests.support.commits import Commits
from tests.support.model_places import Opening, Places
from tests.support.parts import Crash
from tests.support.read_side import ReadSide
from tests.support.waiting import DEADLINE_S, eventually
from workers.projections.projector import Projector
from workers.projections.rebuild import Rebuilds

CODEC = open_codec()

_UNKNOWN = "user-exploded.v9"
_ROUNDS = effort.sized(2, 12)
_LIVES = effort.sized(1, 30)
_ASKS: list[tuple[str, dict[str, object]]] = [
    ("rebuild", {"check": True}),
    ("switch", {}),
    ("switch", {"rollback": True}),
    ("diff", {}),
    ("switch", {"rollback": True}),
    ("rebuild", {}),
    ("switch", {"rollback": True}),
    ("cancel", {}),
    ("prune", {"keep": 1}),
]

Rows = dict[int, dict[str, Value]]


class Fold:
    """The rows that the streams of users make, event by event, told without the projection."""

    def __init__(self) -> None:
        self.rows: Rows = {}
        self.position = 0
        self._parked: set[str] = set()

    def add(self, event: Recorded) -> None:
        self.position = event.position
        if event.type == _UNKNOWN:
            self._parked.add(event.stream)
        if event.stream in self._parked:
            return
        key = USER.id_of(event.stream)
        row = dict(self.rows.get(key, {"status": "active"}))
        _, data = CODEC.stored(event)
        row |= {name: data[name] for name in ("email", "name") if name in data}
        if event.type.startswith("user-deleted"):
            row["status"] = "deleted"
        if event.type.startswith("user-erased"):
            row |= {"status": "erased", "email": None, "name": None}
        row["version"] = event.version
        self.rows[key] = row


def shown(model: ReadModel) -> Rows:
    return {
        int(row["user_id"] or 0): {name: row[name] for name in ("email", "name", "status", "version")}
        for row in model.rows(USERS)
    }


class Reader:
    """Polls the current rows. It knows the earliest position of which they can be."""

    def __init__(self, side: ReadSide, model: ReadModel) -> None:
        self._side, self._model = side, model
        self._fold = Fold()
        self.reads = 0
        self.problems: list[str] = []

    def poll(self) -> None:
        rows = shown(self._model)
        self.reads += 1
        later = self._side.store.read_all(self._fold.position, 100_000, prefixes=[USER.prefix])
        before = self._fold.position
        while rows != self._fold.rows:
            event = next(later, None)
            if event is None:
                self.problems.append(f"{len(rows)} rows are no fold of the streams after {before}")
                return
            self._fold.add(event)


class Worker:
    """A process with a projector and rebuilds, which is killed after a commit and starts again."""

    def __init__(self, side: ReadSide, opening: Opening, done: threading.Event, seed: str) -> None:
        self._side, self._opening, self._done = side, opening, done
        self._chance = random.Random(seed)
        self.lives = 0
        self.projector: Projector | None = None
        self.rebuilds: Rebuilds | None = None

    def run(self) -> None:
        while not self._done.is_set():
            with suppress(Crash, EsError):
                self._live()

    def _live(self) -> None:
        model = self._opening()
        commits = Commits(model)
        self.lives += 1
        commits.disturb(self._chance.randrange(1, 25), commits.kill)

        def stopped() -> bool:
            return self._done.is_set() or commits.is_killed

        rebuilds = Rebuilds(
            lambda _: self._side.rebuild(read_model=model),
            stopped,
            log=self._side.log,
            now_us=lambda: self._side.now_us,
        )
        projector = self._side.projector_with(rebuilds, read_model=model)
        rebuilds.resume(USERS)  # as a worker that starts
        self.projector, self.rebuilds = projector, rebuilds
        try:
            projector.run(stopped)
        finally:
            commits.is_killed = True  # a projector that ends ends its process
            rebuilds.join()
            model.close()


class Busy:
    def __init__(self, side: ReadSide, opening: Opening, seed: str) -> None:
        self.side = side
        self._chance = random.Random(seed)
        self._done = threading.Event()
        self.people: list[int] = [side.a_user(f"{uuid4().hex}@example.com") for _ in range(5)]
        self.workers = [Worker(side, opening, self._done, f"{seed}-{number}") for number in range(2)]
        self.readers = [Reader(side, opening()) for _ in range(2)]
        self.problems: list[str] = []

    # --- what runs at once ---------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[None]:
        acts: list[Callable[[], None]] = [each.run for each in self.workers]
        acts += [self._repeated(each.poll) for each in self.readers]
        acts.append(self._repeated(self._write))
        threads = [threading.Thread(target=self._guarded, args=(act,)) for act in acts]
        for each in threads:
            each.start()
        try:
            yield
        finally:
            self._done.set()
            for each in threads:
                each.join(DEADLINE_S)
        assert not any(each.is_alive() for each in threads)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException as error:
            self.problems.append(repr(error))
            self._done.set()

    def _repeated(self, act: Callable[[], None]) -> Callable[[], None]:
        def repeat() -> None:
            while not self._done.is_set():
                act()

        return repeat

    def _write(self) -> None:
        user = self._chance.choice(self.people)
        verbs = [rename(user, f"Name {self._chance.random()}"), change(user, f"{uuid4().hex}@example.com")]
        kind = self._chance.randrange(20)
        if kind < 3:
            self.people.append(self.side.a_user(f"{uuid4().hex}@example.com"))
        elif kind == 3:
            self.side.handle(self._chance.choice([delete, erase])(user))
        elif kind == 4 and len(self.people) > 8:
            with suppress(AssertionError):  # another append came first
                self.side.store_event(user, _UNKNOWN)
        else:
            self.side.handle(self._chance.choice(verbs))
        self._done.wait(self._chance.choice([0.002, 0.002, 0.4]))  # a rebuild ends in a pause of the commands

    # --- the operator --------------------------------------------------------------------------

    def operate(self, kind: str, **body: object) -> None:
        """Ask a worker for something. Often it is ended before the next request, and readers see its end."""
        rebuilds = self._chance.choice(self.workers).rebuilds
        if rebuilds is not None:
            self.side.rebuilds = rebuilds
            self.side.ask(f"projections.{kind}", name="users", **body)  # it may be refused
        if self._chance.randrange(4):
            eventually(lambda: self._done.is_set() or not self._is_building(), "the work is done")
        enough = [each.reads + 2 for each in self.readers]

        def have_read() -> bool:
            return all(each.reads >= reads for each, reads in zip(self.readers, enough, strict=True))

        eventually(lambda: self._done.is_set() or have_read(), "readers go on")

    def _is_building(self) -> bool:
        return any(each.state is GenerationState.BUILDING for each in self.side.generations())

    def has_killed_two(self) -> bool:
        return self._done.is_set() or sum(each.lives for each in self.workers) >= len(self.workers) + 2

    def end(self) -> None:
        """Finish what runs: the rows are the fold of all streams."""
        assert self.problems == []
        assert [each.problems for each in self.readers] == [[], []]
        while self._is_building():
            self.side.rebuild().run(lambda: False, begins=None)
        self.side.project()
        fold = Fold()
        for event in self.side.store.read_all(0, 100_000, prefixes=[USER.prefix]):
            fold.add(event)
        assert shown(self.side.read_model) == fold.rows
        self.side.rebuilt()
        assert shown(self.side.read_model) == fold.rows


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of killed threads
@pytest.mark.parametrize("life", range(_LIVES))
def test_readers_never_go_back_while_two_workers_are_killed_and_an_operator_switches(
    places: Places, life: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.projections.next_batch.REBUILD_BATCH", 5)
    monkeypatch.setattr("workers.projections.projector.LIVE_BATCH", 3)
    seed = f"{effort.SEED}-{life}"
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory()))
        log = open_log(f"log-of-{folder}", folder / "test.log")
        opening = ending.enter_context(places.new())
        side = ending.enter_context(closing(ReadSide(folder / "accounts", opening(), log)))
        side.prepare()
        busy = Busy(side, opening, seed)
        with busy.running():
            for _ in range(_ROUNDS):
                for kind, body in _ASKS:
                    busy.operate(kind, **body)
            eventually(busy.has_killed_two, "two workers were killed")  # commands go on until then
        busy.end()
