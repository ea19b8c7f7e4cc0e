"""Random lives of a bank: transfers, crashes, pauses, lists and stores that are lost or restored.

At the end every transfer has ended once, each command had one effect, and no money was made or lost.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.log import open_log
from domain.kernel.errors import EsError
from tests.support import effort
from tests.support.interleavings import Actor
from tests.support.managing import Bank, leading, paused_parts
from tests.support.parts import Crash, Steps
from tests.support.transfers import LATE_S

_WEIGHTS = {
    "transfer": 5,
    "stop": 2,
    "break_purse": 1,
    "run": 3,
    "kill": 5,
    "pause": 3,
    "wait": 2,
    "copy": 2,
    "restore_list": 2,
    "lose_list": 1,
    "restore_store": 2,
}
_STEPS = st.lists(
    st.tuples(
        st.sampled_from([name for name, weight in _WEIGHTS.items() for _ in range(weight)]),
        st.integers(0, 199),
    ),
    min_size=8,
    max_size=30,
)


class Lives:
    def __init__(self, folder: Path) -> None:
        self.bank = Bank(folder, open_log("test", folder / "test.log"))
        for purse in (1, 2, 3):
            self.bank.fill(purse)
        self._copies: list[Path] = []
        self._heads: list[int] = []
        self._next = 10
        self._paused: list[Actor] = []

    # --- users ---------------------------------------------------------------------------------

    def transfer(self, number: int) -> None:
        self._next += 1
        self._heads.append(self.bank.store.head())
        payer, payee = number % 3 + 1, number // 3 % 3 + 1
        self.bank.transfer(self._next, payer, payee, amount=number % 60 + 1)

    def stop(self, number: int) -> None:
        ids = list(self.bank.requested)
        if ids:
            self.bank.do("stop", transfer_id=ids[number % len(ids)])

    def break_purse(self, number: int) -> None:
        self.bank.do("break", purse_id=number % 3 + 1)

    def wait(self, number: int) -> None:
        self.bank.us += round(LATE_S * 1e6) * (number % 3)

    # --- managers ------------------------------------------------------------------------------

    def run(self, _: int) -> None:
        with suppress(EsError):
            self.bank.run(**leading(self.bank))

    def kill(self, number: int) -> None:
        steps = Steps(number // 2, after=number % 2 == 1)
        parts = steps.watched(store=self.bank.store, **leading(self.bank))
        (caller,) = steps.watched(caller=self.bank.caller(parts["store"])).values()
        with suppress(EsError, Crash):
            self.bank.run(**parts, caller=caller)

    def pause(self, number: int) -> None:
        """A manager works for a while, pauses, and goes on after the following steps."""
        actor = Actor("paused", lambda actor: self.bank.run(**paused_parts(actor, self.bank)))
        for _ in range(number // 4):
            if not actor.is_over:
                actor.step()
        self._paused.append(actor)

    def wake(self) -> None:
        """Let the paused managers work to their ends."""
        for actor in self._paused:
            while not actor.is_over:
                actor.step()
            actor.end()
            assert actor.error is None or isinstance(actor.error, EsError), actor.error
        self._paused = []

    # --- copies --------------------------------------------------------------------------------

    def copy(self, _: int) -> None:
        self.wake()
        self._copies.append(self.bank.copy_list())

    def restore_list(self, number: int) -> None:
        self.wake()
        if self._copies:
            self.bank.restore_list(self._copies[number % len(self._copies)])

    def lose_list(self, _: int) -> None:
        self.wake()
        self.bank.restore_list(None)

    def restore_store(self, number: int) -> None:
        self.wake()
        heads = [*self._heads, *range(max(3, self.bank.store.head() - 20), self.bank.store.head())]
        if heads:
            head = heads[number % len(heads)]
            self.bank.restore_store(head)
            self._heads = [each for each in self._heads if each <= head]


@given(steps=_STEPS)
@settings(max_examples=effort.sized(40, 3000))
def test_every_transfer_ends_once_in_any_life(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory(prefix="es-lives-") as folder:
        lives = Lives(Path(folder))
        try:
            for what, number in steps:
                getattr(lives, what)(number)
                lives.bank.check()
            lives.wake()
            lives.bank.us += 120_000_000
            lives.bank.settle()
            lives.bank.check_at_the_end()
        finally:
            for actor in lives._paused:
                actor.end()
            lives.bank.close()
