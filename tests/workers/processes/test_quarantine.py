"""An instance that cannot go on is in quarantine alone; after a fix it takes note of what was held, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from domain.kernel.errors import EsError, PartUnavailable
from domain.kernel.events import NO_STREAM, Event
from domain.kernel.messages import LATER, Body, Request
from domain.kernel.process import Answered, Effect, Process, Rules
from tests.support.builders import an_event, append
from tests.support.managing import Bank
from tests.support.parts import replaced
from tests.support.transfers import LATE_S, MOVING, TRANSFER, Moving, TransferRequested, react

POISON = 13
"""The amount that broken rules cannot stand."""


def broken_at(happening: type[Event]) -> Process[Moving]:
    def broken(moving: Moving, event: Event) -> Sequence[Effect]:
        if moving.amount == POISON and isinstance(event, happening):
            raise KeyError("a bug")
        return react(moving, event)

    return replace(MOVING, react=broken)


def ask(bank: Bank, kind: str, **body: object) -> Any:
    (reply,) = bank.managing().handle([Request(f"processes.{kind}", dict(body))])
    return reply


def retried(bank: Bank, id_: int) -> Body:
    """Ask for a retry, let the manager work, and return the reply."""
    request = Request("processes.retry", {"process": "moving", "instance": str(id_)})
    service = bank.managing()
    assert service.handle([request]) == [LATER]
    assert service.handle([request]) == [LATER]
    bank.run()
    (reply,) = service.handle([request])
    assert isinstance(reply, dict), reply
    return reply


# --- events that cannot be noted -------------------------------------------------------------


def test_siblings_and_the_checkpoint_go_on_beside_a_poisoned_instance(bank: Bank) -> None:
    bank.process = broken_at(TransferRequested)
    bank.transfer(7, amount=POISON)
    bank.transfer(8)
    bank.do("stop", transfer_id=7)

    bank.run()

    listed = bank.listed(7)
    assert listed is not None
    assert (listed.held, listed.due_us) == (2, None)
    assert "the process moving react raises KeyError for transfer-requested.v1" in listed.error
    assert bank.outcomes(8) == ["done"]
    assert bank.worklist.checkpoint("moving").position >= 5
    assert bank.types(7) == []


def test_a_retry_after_the_fix_notes_the_held_events_in_order_and_goes_on(bank: Bank) -> None:
    bank.process = broken_at(TransferRequested)
    bank.transfer(7, amount=POISON)
    bank.run()
    bank.do("stop", transfer_id=7)
    bank.run()

    assert retried(bank, 7)["state"] == "quarantined"

    bank.process = MOVING
    assert retried(bank, 7)["reason"] is None
    bank.settle()

    assert bank.outcomes(7) == ["command-cancelled"]
    noted = [each for each in bank.types(7) if each in ("noted", "command-issued", "command-cancelled")]
    assert noted[:4] == ["noted", "command-issued", "noted", "command-cancelled"]
    bank.check_at_the_end()


def test_what_follows_an_event_that_fails_waits_behind_it_within_a_batch(bank: Bank) -> None:
    """Otherwise the later one would be noted first."""
    bank.process = broken_at(TransferRequested)
    bank.transfer(7, amount=POISON)
    bank.do("stop", transfer_id=7)
    bank.do("stop", transfer_id=7)
    bank.run()

    assert len(bank.worklist.held("moving", 7, limit=9)) == 3


# --- looks that fail -------------------------------------------------------------------------


def test_timers_and_commands_of_an_instance_in_quarantine_rest(bank: Bank) -> None:
    bank.process = broken_at(Answered)
    bank.transfer(7, amount=POISON)
    bank.run()
    before = bank.types(7)
    assert "timer-set" in before

    bank.us += round(LATE_S * 2e6)
    bank.process = replace(bank.process, react=react)  # the fix alone starts nothing
    for _ in range(3):
        bank.run()

    listed = bank.listed(7)
    assert listed is not None
    assert "react raises KeyError for Answered" in listed.error
    assert bank.types(7) == before

    retried(bank, 7)
    bank.settle()
    bank.check_at_the_end()
    assert len(bank.outcomes(7)) == 1


def test_an_instance_of_unknown_rules_is_in_quarantine_until_they_are_known(bank: Bank) -> None:
    bank.process = broken_at(Answered)
    bank.transfer(7, amount=POISON)
    bank.run()

    bank.process = replace(MOVING, rules=2)
    assert "version 1 of the rules" in str(retried(bank, 7)["reason"])
    bank.transfer(8)
    bank.run()
    assert bank.outcomes(8) == ["done"]

    bank.process = replace(MOVING, rules=2, earlier={1: Rules(MOVING.initial, MOVING.evolve, react)})
    retried(bank, 7)
    bank.settle()
    bank.check_at_the_end()


def test_an_event_of_its_stream_that_cannot_be_read_puts_an_instance_into_quarantine(bank: Bank) -> None:
    append(bank.store, "process-moving-7", NO_STREAM, [an_event("process-of-tomorrow.v1")])
    bank.transfer(7)
    bank.transfer(8)

    bank.run()

    listed = bank.listed(7)
    assert listed is not None
    assert listed.held == 1
    assert bank.outcomes(8) == ["done"]


# --- events without an instance --------------------------------------------------------------


@pytest.mark.parametrize(
    ("correlate", "reason"),
    [
        (lambda event, id_: {}[id_], "raises KeyError"),
        (lambda event, id_: "7", "returns no id"),
        (lambda event, id_: 0, "returns no id"),
    ],
)
def test_an_event_whose_instance_cannot_be_told_is_held_and_noted_after_the_fix(
    bank: Bank, correlate: Any, reason: str
) -> None:
    bank.process = replace(MOVING, starts={TransferRequested: correlate})
    bank.transfer(7)
    bank.run()

    (listed,) = bank.worklist.instances(quarantined=True, limit=9)
    assert (listed.instance, listed.held) == (0, 1)
    assert reason in listed.error

    bank.process = MOVING
    assert retried(bank, 0)["state"] == "ended"
    bank.settle()
    assert bank.outcomes(7) == ["done"]


def test_a_damaged_event_is_held_and_the_others_go_on(bank: Bank) -> None:
    append(bank.store, "transfer-7", NO_STREAM, [an_event("transfer-requested.v1", data=b"{")])
    bank.transfer(8)

    bank.run()

    (listed,) = bank.worklist.instances(quarantined=True, limit=9)
    assert listed.instance == 0
    assert bank.outcomes(8) == ["done"]


# --- outages ---------------------------------------------------------------------------------


def test_an_outage_holds_nothing_and_moves_nothing(bank: Bank) -> None:
    bank.transfer(7)

    def fails(*_: object, **__: object) -> Any:
        raise PartUnavailable("event store", "no reply")

    with pytest.raises(PartUnavailable):
        bank.run(store=replaced(bank.store, append=fails))

    assert bank.worklist.instances(limit=9) == []
    assert bank.worklist.checkpoint("moving").position == 0
    bank.settle()
    bank.check_at_the_end()


@pytest.mark.parametrize(
    "reply",
    [
        PartUnavailable("the bank worker", "no reply"),
        *[
            type("Reply", (EsError,), {"code": code, "kind": PartUnavailable.kind})()
            for code in ("internal", "key-unavailable")
        ],
    ],
)
def test_a_command_without_an_answer_is_sent_again_later_and_later(bank: Bank, reply: EsError) -> None:
    bank.transfer(7)
    asked: list[int] = []

    class Silent:
        def pipeline(self, _role: str, requests: Any, **_: object) -> Any:
            asked.append(bank.us)
            return iter([reply for _ in requests])

    for _ in range(60):
        bank.run(caller=Silent())
        bank.us += 500_000

    listed = bank.listed(7)
    assert listed is not None
    assert listed.error == ""
    assert listed.attempts == len(asked) >= 5
    assert listed.waits_for == str(reply)
    waits = [later - earlier for earlier, later in pairwise(asked)]
    assert waits == sorted(waits)

    bank.us += 120_000_000
    bank.settle()
    bank.check_at_the_end()


# --- what an operator sees -------------------------------------------------------------------


def test_an_operator_sees_what_is_open_and_why_it_rests(bank: Bank) -> None:
    bank.process = broken_at(Answered)
    bank.transfer(7, amount=POISON)
    bank.transfer(9, amount=POISON)
    bank.run()

    progress = ask(bank, "progress")
    (state,) = progress["processes"]
    assert (state["process"], state["open"], state["quarantined"]) == ("moving", 2, 2)
    row, _ = ask(bank, "list", quarantined=True)["instances"]
    assert (row["instance"], row["state"]) == ("7", "quarantined")
    assert len(ask(bank, "list", limit=1)["instances"]) == 1
    assert ask(bank, "list", limit=1)["next"] == {"after_process": "moving", "after_instance": 7}

    shown = ask(bank, "show", process="moving", instance="7")
    assert shown["commands"][0]["step"] == "take"
    assert shown["timers"][0]["timer"] == "late"
    assert [event["type"] for event in shown["history"]][:2] == ["process-started.v1", "process-noted.v1"]
    assert "amount=13" in shown["data"]

    assert ask(bank, "show", process="moving", instance="99").code == "instance-not-found"
    assert ask(bank, "retry", process="moving", instance="99").code == "instance-not-found"
    assert ask(bank, "show", process="no", instance="9").code == "invalid-input"
    assert ask(bank, "else").code == "unknown-request"
    assert bank.events(TRANSFER, 7)
