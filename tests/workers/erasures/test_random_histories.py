"""Random lives of a system: people come, change and are erased, processes die, parts are damaged and restored.

At the end each person with a decided erasure has no key in the vault that is in use, or the erasure is listed as owed.
Every other person still has the key that the vault in use was given.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.log import open_log
from domain.kernel.errors import EsError
from domain.kernel.events import NO_STREAM, EventData
from domain.users.account import ERASING, USER
from tests.support import effort
from tests.support.accounts import change, delete, erase, rename
from tests.support.builders import append, streams_of
from tests.support.erasures import Erasures
from tests.support.parts import Crash, Steps

_PARTS = ("events.db", "vault.db")


_WEIGHTS = {
    "register": 4,
    "change": 2,
    "decide": 4,
    "run": 3,
    "kill": 4,
    "damage": 2,
    "foreign": 1,
    "copy": 2,
    "restore": 3,
}
_STEPS = st.lists(
    st.tuples(
        st.sampled_from([name for name, weight in _WEIGHTS.items() for _ in range(weight)]),
        st.integers(0, 119),
    ),
    min_size=25,
    max_size=60,
)


class Lives:
    """`keys` are the people whose keys the vault in use was given; `decided` those whose erasure was ever decided."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = open_log("test", folder / "test.log")
        self._home = folder / "home"
        self.system = Erasures(self._home, self._log, durable=True)
        self.people: list[int] = []
        self.keys: set[int] = set()
        self.decided: set[int] = set()
        self.damaged: set[int] = set()
        self.copies: list[tuple[Path, set[int], set[int]]] = []

    def step(self, what: str, number: int) -> None:
        """One step. `number` chooses the person, the copy, or the call at which a process is killed."""
        if what in ("change", "decide", "damage") and not self.people:
            what = "register"
        if what == "restore" and not self.copies:
            what = "copy"
        getattr(self, what)(number)

    # --- people --------------------------------------------------------------------------------

    def register(self, number: int) -> None:
        for _ in range(1 + number % 5):
            user_id = self.system.a_user(f"{uuid4().hex}@example.com")
            self.people.append(user_id)
            self.keys.add(user_id)

    def change(self, number: int) -> None:
        user_id = self._person(number)
        requests = [rename(user_id), change(user_id, f"{uuid4().hex}@example.com"), delete(user_id)]
        self.system.handle(requests[number % 3])  # it may be refused

    def decide(self, number: int) -> None:
        user_id = self._person(number)
        (reply,) = self.system.handle(erase(user_id))
        if isinstance(reply, dict):
            self.decided.add(user_id)

    def _person(self, number: int) -> int:
        return self.people[number % len(self.people)]

    # --- processes -----------------------------------------------------------------------------

    def run(self, number: int) -> None:
        for _ in range(1 + number % 3):
            with suppress(EsError):  # damage is told
                self.system.run()

    def kill(self, number: int) -> None:
        steps = Steps(number // 2, after=number % 2 == 1)
        parts = steps.watched(store=self.system.store, vault=self.system.vault)
        with suppress(EsError, Crash):
            self.system.run(**parts)
        self._reopen()

    # --- damage and foreign programs ------------------------------------------------------------

    def damage(self, number: int) -> None:
        user_id = self._person(number)
        match number % 3:
            case 0:
                self.system.damage(user_id)
            case 1:
                self.system.store_event(user_id, "user-promoted.v9")
            case _:
                self.damaged.add(user_id)
                self.system.change_vault(
                    "UPDATE data_keys SET wrapped = zeroblob(60) WHERE subject = ?", user_id
                )

    def foreign(self, number: int) -> None:
        types = [*ERASING, "user-deleted.v1"]
        event = EventData(uuid4(), types[number % len(types)], b"{}", b"{}")
        append(self.system.store, f"user-{uuid4()}", NO_STREAM, [event])

    # --- copies ----------------------------------------------------------------------------------

    def copy(self, _: int) -> None:
        """Copy every part at once, while nothing runs."""
        folder = self._folder / f"copy{len(self.copies)}"
        folder.mkdir()
        self.system.close()
        for part in _PARTS:
            shutil.copy(self._home / part, folder / part)
        self._open()
        self.copies.append((folder, {*self.keys}, {*self.damaged}))

    def restore(self, number: int) -> None:
        parts = [_PARTS, ("events.db",), ("vault.db",)][number % 3]
        folder, keys, damaged = self.copies[number // 3 % len(self.copies)]
        self.system.close()
        for part in parts:
            for old in self._home.glob(f"{part}*"):
                old.unlink()
            shutil.copy(folder / part, self._home / part)
        if "vault.db" in parts:
            self.keys, self.damaged = {*keys}, {*damaged}
        self._open()

    def _reopen(self) -> None:
        self.system.close()
        self._open()

    def _open(self) -> None:
        ids = self.system.take_ids
        self.system = Erasures(self._home, self._log, durable=True)
        self.system.take_ids = ids  # type: ignore[method-assign]  # no id is issued twice, as after a fence

    # --- what must hold --------------------------------------------------------------------------

    def settle(self) -> None:
        for _ in range(3):
            with suppress(EsError):
                self.system.run()

    def check(self) -> None:
        for name, _ in streams_of(self.system.store, USER.prefix):
            with suppress(EsError):
                user_id = USER.id_of(name)
                if {*self.system.types(user_id)} & {*ERASING}:
                    assert user_id in self.decided
                    is_owed = self.system.vault.owed_of(user_id) is not None
                    assert is_owed or not self.system.may_have_key(user_id), f"{user_id} was passed over"
        for user_id in self.keys - self.decided - self.damaged:
            assert self.system.has_key(user_id), f"{user_id} lost the key"


@given(steps=_STEPS)
@settings(max_examples=effort.sized(30, 3000))
def test_no_decided_erasure_is_passed_over_and_no_other_key_is_lost(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory(prefix="es-lives-") as folder:
        lives = Lives(Path(folder))
        try:
            for what, number in steps:
                lives.step(what, number)
            lives.settle()
            lives.check()
        finally:
            lives.system.close()
