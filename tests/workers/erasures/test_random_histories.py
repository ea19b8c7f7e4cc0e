"""Random lives of a system: people come, change and are erased, processes die, parts are damaged and restored.

At the end each person with a decided erasure has no key in the vault that is in use, or the erasure is listed as owed.
Every other person still has the key that the vault in use was given.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from uuid import uuid4

from hypothesis import settings, target
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adapters.log import open_log
from domain.kernel.errors import EsError
from domain.kernel.events import NO_STREAM, EventData
from domain.users.account import ERASING, USER
from tests.support import effort
from tests.support.accounts import change, create, delete, erase, rename
from tests.support.builders import append
from tests.support.erasures import Erasures
from tests.support.parts import Crash, Steps

_PARTS = ("events.db", "vault.db")


class Lives(RuleBasedStateMachine):
    """`keys` are the people whose keys the vault in use was given; `decided` those whose erasure was ever decided."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="es-lives-"))
        self._log = open_log("test", self._folder / "test.log")
        self._home = self._folder / "home"
        self.system = Erasures(self._home, self._log, durable=True)
        self.people: list[int] = []
        self.keys: set[int] = set()
        self.decided: set[int] = set()
        self.damaged: set[int] = set()
        self.copies: list[tuple[Path, set[int]]] = []

    def teardown(self) -> None:
        try:
            self._settle()
            self._check()
        finally:
            self.system.close()
            shutil.rmtree(self._folder)

    # --- people --------------------------------------------------------------------------------

    @rule(number=st.integers(1, 3))
    def register(self, number: int) -> None:
        for _ in range(number):
            user_id = self.system.a_user(f"{uuid4().hex}@example.com")
            self.people.append(user_id)
            self.keys.add(user_id)

    @precondition(lambda self: self.people)
    @rule(number=st.integers(0, 99), how=st.sampled_from(["rename", "change", "delete"]))
    def change_one(self, number: int, how: str) -> None:
        user_id = self._person(number)
        request = {
            "rename": rename(user_id),
            "change": change(user_id, f"{uuid4().hex}@example.com"),
            "delete": delete(user_id),
        }[how]
        self.system.handle(request)  # it may be refused

    @precondition(lambda self: self.people)
    @rule(number=st.integers(0, 99))
    def decide(self, number: int) -> None:
        user_id = self._person(number)
        (reply,) = self.system.handle(erase(user_id))
        if isinstance(reply, dict):
            self.decided.add(user_id)

    def _person(self, number: int) -> int:
        return self.people[number % len(self.people)]

    # --- processes -----------------------------------------------------------------------------

    @rule(looks=st.integers(1, 3))
    def run(self, looks: int) -> None:
        for _ in range(looks):
            with suppress(EsError):  # damage is told
                self.system.run()

    @rule(step=st.integers(0, 40), after=st.booleans())
    def run_and_kill(self, step: int, after: bool) -> None:
        steps = Steps(step, after=after)
        parts = steps.watched(store=self.system.store, vault=self.system.vault)
        with suppress(EsError, Crash):
            self.system.run(**parts)
        self._reopen()

    # --- damage and foreign programs ------------------------------------------------------------

    @precondition(lambda self: self.people)
    @rule(number=st.integers(0, 99), what=st.sampled_from(["event", "key", "unknown"]))
    def damage(self, number: int, what: str) -> None:
        user_id = self._person(number)
        if USER.stream_of(user_id) not in dict(self.system.store.streams(prefix=USER.prefix, limit=10_000)):
            return
        match what:
            case "event":
                self.system.damage(user_id)
            case "unknown":
                self.system.store_event(user_id, "user-promoted.v9")
            case "key":
                self.damaged.add(user_id)
                self.system.change_vault(
                    "UPDATE data_keys SET wrapped = zeroblob(60) WHERE subject = ?", user_id
                )

    @rule(type_=st.sampled_from([*ERASING, "user-deleted.v1"]), name=st.uuids(version=4))
    def a_foreign_event(self, type_: str, name: object) -> None:
        append(self.system.store, f"user-{name}", NO_STREAM, [EventData(uuid4(), type_, b"{}", b"{}")])

    # --- copies ----------------------------------------------------------------------------------

    @rule()
    def copy(self) -> None:
        """Copy every part at once, while nothing runs."""
        folder = self._folder / f"copy{len(self.copies)}"
        folder.mkdir()
        self.system.close()
        for part in _PARTS:
            shutil.copy(self._home / part, folder / part)
        self._open()
        self.copies.append((folder, {*self.keys}))

    @precondition(lambda self: self.copies)
    @rule(
        number=st.integers(0, 9), parts=st.sampled_from([_PARTS, ("events.db",), ("vault.db",)])
    )
    def restore(self, number: int, parts: Sequence[str]) -> None:
        folder, keys = self.copies[number % len(self.copies)]
        self.system.close()
        for part in parts:
            for old in self._home.glob(f"{part}*"):
                old.unlink()
            shutil.copy(folder / part, self._home / part)
        if "vault.db" in parts:
            self.keys = {*keys}
            self.damaged -= keys  # the copy may be from before the damage: such a key is checked again
        self._open()

    def _reopen(self) -> None:
        self.system.close()
        self._open()

    def _open(self) -> None:
        ids = self.system.take_ids
        self.system = Erasures(self._home, self._log, durable=True)
        self.system.take_ids = ids  # type: ignore[method-assign]  # no id is issued twice, as after a fence

    # --- what must hold --------------------------------------------------------------------------

    def _settle(self) -> None:
        for _ in range(3):
            with suppress(EsError):
                self.system.run()

    def _check(self) -> None:
        for name, _ in self.system.store.streams(prefix=USER.prefix, limit=10_000):
            with suppress(EsError):
                user_id = USER.id_of(name)
                if {*self.system.types(user_id)} & {*ERASING}:
                    assert user_id in self.decided
                    is_owed = self.system.vault.owed_of(user_id) is not None
                    assert is_owed or not self.system.may_have_key(user_id), f"{user_id} was passed over"
        for user_id in self.keys - self.decided - self.damaged:
            assert self.system.has_key(user_id), f"{user_id} lost the key"


Lives.TestCase.settings = settings(
    max_examples=effort.sized(40, 1000), stateful_step_count=effort.sized(25, 60), deadline=None
)
TestLives = Lives.TestCase
