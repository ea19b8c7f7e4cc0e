"""The process manager: what it notes, sends, waits for and ends."""

from __future__ import annotations

from typing import Any

from domain.kernel.errors import PartUnavailable, UnknownRequest
from domain.kernel.history import History
from tests.support.managing import Bank
from tests.support.parts import replaced
from tests.support.transfers import LATE_S


def test_a_transfer_runs_to_its_end(bank: Bank) -> None:
    bank.transfer(7, amount=30)

    bank.run()

    assert (bank.purse(1).money, bank.purse(2).money, bank.outcomes(7)) == (70, 130, ["done"])
    bank.settle()
    bank.check_at_the_end()


class Silent:
    """A caller whose role answers nothing."""

    def pipeline(self, role: str, requests: Any, **_: object) -> Any:
        return iter([PartUnavailable(f"the {role} worker", "no reply") for _ in requests])


def test_a_timer_fires_although_its_manager_has_ended_and_the_role_is_silent(bank: Bank) -> None:
    bank.transfer(7)
    bank.run(caller=Silent())
    bank.us += round(LATE_S * 1e6) - 1
    bank.run(caller=Silent())
    assert "timer-fired" not in bank.types(7)

    bank.us += 1
    bank.run(caller=Silent())

    assert bank.types(7)[-2:] == ["timer-fired", "command-cancelled"]
    bank.settle()
    assert bank.outcomes(7) == ["command-cancelled"]
    bank.check_at_the_end()


def test_an_idle_manager_asks_the_list_once_a_second(bank: Bank) -> None:
    calls: list[int] = []

    def due(*given: Any, **more: Any) -> Any:
        calls.append(bank.us)
        return bank.worklist.due(*given, **more)

    manager = bank.manager(worklist=replaced(bank.worklist, due=due))
    manager._leads()

    for _ in range(20):
        manager._after_each()
        bank.us += 200_000

    assert len(calls) == 4
    assert manager._following.saved == History()


def test_a_second_manager_stands_by_until_the_first_stops(bank: Bank) -> None:
    first, second = bank.manager(owner="first"), bank.manager(owner="second")
    assert first._leads()
    assert not second._leads()
    bank.us += 10_000_000
    assert first._leads()
    bank.us += 10_000_000
    assert not second._leads()
    bank.us += 10_000_000
    assert second._leads()


def test_commands_carry_the_correlation_of_the_instance(bank: Bank) -> None:
    bank.transfer(7)
    bank.run()

    (requested,) = [e for e in bank.store._log if e.type == "transfer-requested.v1"]
    taken = [e for e in bank.store._log if e.type == "money-taken.v1"]
    expected = bank.codec.metadata(requested).correlation_id
    assert [bank.codec.metadata(e).correlation_id for e in taken] == [expected]
    assert bank.codec.metadata(taken[0]).actor == "process:moving"


def test_an_answer_of_a_worker_of_another_version_is_none(bank: Bank) -> None:
    bank.transfer(7)

    class Older:
        def pipeline(self, _role: str, requests: Any, **_: object) -> Any:
            return iter([UnknownRequest("bank.take") for _ in requests])

    bank.run(caller=Older())
    assert bank.types(7)[-1] == "timer-set"

    bank.us += 1_000_000
    bank.settle()
    assert bank.outcomes(7) == ["done"]
