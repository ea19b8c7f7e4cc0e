"""Process managers: what follows from what an instance notes, once, and as stored events alone tell it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Annotated, Any, ClassVar
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.codec import JsonCodec
from domain.kernel.aggregate import Aggregate
from domain.kernel.commands import Command, Input
from domain.kernel.errors import EsError, Refusal, UnknownEventType
from domain.kernel.events import Event, EventData, Recorded
from domain.kernel.ids import parse_id
from domain.kernel.process import (
    Answered,
    Cancel,
    Effect,
    End,
    Process,
    Rules,
    Send,
    SetTimer,
    StopTimer,
    TimedOut,
    by_stream,
)
from domain.kernel.process_errors import ProcessFailed, ProcessRulesUnknown
from domain.kernel.process_events import ProcessNoted, ProcessStarted
from domain.kernel.process_instance import (
    Answer,
    Fire,
    Instance,
    InstanceCommand,
    Note,
    command_id_of,
    process_aggregate,
)
from domain.kernel.uuid7 import Uuid7s
from tests.support.builders import recorded

NOW = 1_800_000_000_000_000


@dataclass(frozen=True, slots=True)
class Asked(Event):
    amount: int
    type: ClassVar[str] = "asked.v1"


@dataclass(frozen=True, slots=True)
class Prodded(Event):
    type: ClassVar[str] = "prodded.v1"


@dataclass(frozen=True, slots=True)
class Take(Command):
    account_id: Annotated[int, Input(parse_id, "The account.", "ID")]
    wire: ClassVar[str] = "take"
    request: ClassVar[str] = "accounts.take"


class Empty(Refusal):
    code = "empty"

    def __str__(self) -> str:
        return "the account is empty"


def evolve(state: tuple[str, ...], event: Event) -> tuple[str, ...]:
    match event:
        case Answered(step=step, code=code, id=id_):
            return (*state, f"{step} {code or id_}")
        case TimedOut(timer=timer):
            return (*state, timer)
    return (*state, type(event).__name__)


def react(state: tuple[str, ...], event: Event) -> Sequence[Effect]:
    match event:
        case Asked():
            return [Send("take", Take(5)), SetTimer("late", 2.5)]
        case TimedOut():
            return [Cancel("take")]
        case Answered(step="take"):
            return [StopTimer("late"), Send("tell", Take(6))]
        case Answered(step="tell"):
            return [End("told")]
    return []


PROCESS: Process[tuple[str, ...]] = Process(
    name="taking",
    initial=lambda _: (),
    evolve=evolve,
    react=react,
    starts={Asked: by_stream},
    follows={Prodded: by_stream},
)
CODEC = JsonCodec([Asked, Prodded])


def to_input(command: Command) -> dict[str, Any]:
    return {"account_id": str(getattr(command, "account_id", 0))}


def aggregate(process: Process[Any] = PROCESS) -> Aggregate[Instance, InstanceCommand]:
    return process_aggregate(process, decode=CODEC.decode, to_input=to_input)


def noting(event: Event, version: int = 0, event_id: UUID | None = None) -> Note:
    data = {"amount": event.amount} if isinstance(event, Asked) else {}
    stored = EventData(event_id or UUID(int=version), event.type, json.dumps(data).encode(), b"{}")
    return Note(7, event, recorded(stored, stream="request-7", version=version), NOW)


class Run:
    """One instance: its stored events, and the commands that it is given."""

    def __init__(self, process: Process[Any] = PROCESS, stored: Sequence[Event] = ()) -> None:
        self.aggregate = aggregate(process)
        self.stored: list[Event] = list(stored)

    @property
    def instance(self) -> Instance:
        return reduce(self.aggregate.evolve, self.stored, self.aggregate.initial)

    def give(self, command: InstanceCommand) -> list[str]:
        """The types of the events that the command led to."""
        decided = self.decided(command)
        assert not isinstance(decided, EsError), decided
        self.stored += decided
        return [event.type.removeprefix("process-").removesuffix(".v1") for event in decided]

    def decided(self, command: InstanceCommand) -> Sequence[Event] | EsError:
        return self.aggregate.decide(self.instance, command)

    def answer(self, step: str, error: EsError | None = None, id_: int = 0) -> list[str]:
        return self.give(Answer(self.instance.issued[step], error, NOW, id_))

    def fire(self, timer: str) -> list[str]:
        return self.give(Fire(timer, self.instance.timers[timer], NOW))


@pytest.fixture
def run() -> Run:
    begun = Run()
    begun.give(noting(Asked(5)))
    return begun


# --- a whole life --------------------------------------------------------------------------------


def test_a_start_is_stored_with_everything_that_follows() -> None:
    run = Run()

    assert run.give(noting(Asked(5))) == ["started", "noted", "command-issued", "timer-set"]
    assert run.instance.is_open
    assert run.instance.state == ("Asked",)
    assert [(each.request, each.input) for each in run.instance.issued.values()] == [
        ("accounts.take", '{"account_id":"5"}')
    ]
    assert run.instance.due_us == NOW + 2_500_000


def test_answers_and_refusals_reach_the_rules_and_the_end_stays(run: Run) -> None:
    assert run.answer("take", Empty()) == ["command-answered", "timer-stopped", "command-issued"]
    assert run.answer("tell", id_=6) == ["command-answered", "ended"]

    assert run.instance.state == ("Asked", "take empty", "tell 6")
    assert (run.instance.outcome, run.instance.is_open, run.instance.due_us) == ("told", False, None)
    assert run.give(noting(Prodded(), 1)) == []


def test_a_timer_that_is_due_cancels_the_command_and_its_answer_still_counts(run: Run) -> None:
    assert run.fire("late") == ["timer-fired", "command-cancelled"]

    (issued,) = run.instance.issued.values()
    assert issued.is_cancelled
    assert run.answer("take") == ["command-answered", "timer-stopped", "command-issued"]


def test_commands_without_an_answer_keep_an_ended_instance_open() -> None:
    process = replace(
        PROCESS, react=lambda _, event: [Send("take", Take(5)), End()] if type(event) is Asked else []
    )
    run = Run(process)
    run.give(noting(Asked(1)))

    assert run.instance.is_open
    assert run.answer("take") == ["command-answered"]
    assert not run.instance.is_open


# --- once ----------------------------------------------------------------------------------------


def test_what_was_answered_or_fired_is_not_noted_again(run: Run) -> None:
    (issued,), timer = run.instance.issued.values(), run.instance.timers["late"]
    run.answer("take")

    assert run.give(Answer(issued, None, NOW)) == []
    assert run.give(Fire("late", timer, NOW)) == [], "the answer stopped it"


def test_a_timer_that_was_set_again_fires_at_its_new_time_alone(run: Run) -> None:
    process = replace(
        PROCESS, react=lambda _, event: [SetTimer("late", 1)] if type(event) in (Asked, Prodded) else []
    )
    run = Run(process)
    run.give(noting(Asked(1)))
    first = run.instance.timers["late"]
    run.give(noting(Prodded(), 1))

    assert run.give(Fire("late", first, NOW)) == []
    assert run.fire("late") == ["timer-fired"]


def test_ids_follow_from_instance_step_and_cause_and_keep_the_order_in_time() -> None:
    ids = Uuid7s(lambda: NOW, lambda n: bytes(n))
    cause, later = ids(), ids()
    one, same, other = Run(), Run(), Run()
    for run, event_id in ((one, cause), (same, cause), (other, later)):
        run.give(noting(Asked(5), event_id=event_id))
    (first,), (again,), (second,) = (run.instance.issued.values() for run in (one, same, other))

    assert first.command_id == again.command_id != second.command_id
    assert first.command_id.version == 7
    assert first.command_id.int >> 80 == cause.int >> 80
    notes = {
        command_id_of(noting(Asked(5), event_id=id_), stream) for id_ in (cause, later) for stream in "ab"
    }
    assert len(notes) == 4


def test_events_that_only_follow_begin_nothing() -> None:
    assert Run().give(noting(Prodded())) == []


# --- rules that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effects", "reason"),
    [
        ([Send("take", Take(1)), Send("take", Take(2))], "'take' a second time"),
        ([Cancel("missing")], "'missing', which is not open"),
        ([End(), SetTimer("t", 1)], "effect after its end: SetTimer"),
        ([Send("x", Command())], "no request"),
        (["nonsense"], "unknown effect: str"),
    ],
)
def test_an_effect_that_is_not_possible_stores_nothing(effects: list[Any], reason: str) -> None:
    if isinstance(effects[0], Send) and type(effects[0].command) is Command:
        Command.wire = "bare"
    found = Run(replace(PROCESS, react=lambda *_: effects)).decided(noting(Asked(5)))

    assert isinstance(found, ProcessFailed)
    assert reason in str(found)


@pytest.mark.parametrize("function", ["evolve", "react"])
def test_rules_that_raise_store_nothing_and_tell_no_value(function: str) -> None:
    def fails(*_: object) -> Any:
        raise ValueError("ada@example.com")

    process = replace(PROCESS, evolve=fails) if function == "evolve" else replace(PROCESS, react=fails)
    found = Run(process).decided(noting(Asked(5)))

    assert isinstance(found, ProcessFailed)
    assert str(found).startswith(
        f"the process taking {function} raises ValueError for asked.v1 (test_process.py, line "
    )


def test_a_noted_event_of_an_unknown_type_is_named(run: Run) -> None:
    unknown = ProcessNoted(str(uuid4()), "x-1", 0, 1, NOW, "gone.v1", "{}")

    with pytest.raises(UnknownEventType, match=r"gone\.v1"):
        Run(stored=[*run.stored, unknown]).instance  # noqa: B018


def test_open_instances_end_by_the_rules_that_they_began_with(run: Run) -> None:
    begun = run.stored
    earlier = Rules(PROCESS.initial, PROCESS.evolve, PROCESS.react)
    changed = replace(PROCESS, rules=2, react=lambda *_: [End("by new rules")])

    old = Run(replace(changed, earlier={1: earlier}), begun)
    old.answer("take")
    assert old.answer("tell") == ["command-answered", "ended"]
    assert old.instance.outcome == "told"
    assert Run(replace(changed, earlier={1: earlier})).give(noting(Asked(1))) == ["started", "noted", "ended"]
    with pytest.raises(ProcessRulesUnknown, match="version 1 of the rules"):
        Run(changed, begun).instance  # noqa: B018


# --- any life ------------------------------------------------------------------------------------

_steps = st.lists(
    st.tuples(st.sampled_from(["ask", "prod", "answer", "refuse", "fire"]), st.integers(0, 3)), max_size=25
)


@given(_steps)
def test_any_happenings_in_any_order_keep_an_instance_whole(steps: list[tuple[str, int]]) -> None:
    """Each step is issued once, what ended stays, the stored events alone tell the state, and a repeat adds nothing."""
    run = Run()
    given_: dict[UUID, InstanceCommand] = {}
    for number, (how, which) in enumerate(steps):
        instance = run.instance
        issued, timers = list(instance.issued.values()), list(instance.timers.items())
        command: InstanceCommand | None = None
        if how in ("ask", "prod"):
            command = noting(Asked(which) if how == "ask" else Prodded(), number)
        elif how == "fire" and timers:
            command = Fire(*timers[which % len(timers)], NOW)
        elif how in ("answer", "refuse") and issued:
            command = Answer(issued[which % len(issued)], Empty() if how == "refuse" else None, NOW)
        if command is None or isinstance(decided := run.decided(command), EsError):
            continue
        ended = instance.outcome
        run.stored += decided
        assert not ended or not decided
        given_[command_id_of(command, "process-taking-7")] = command
    started = [event for event in run.stored if isinstance(event, ProcessStarted)]
    sent = [event.step for event in run.stored if hasattr(event, "step") and hasattr(event, "request")]
    assert len(started) <= 1
    assert len(sent) == len(set(sent))
    for command in given_.values():
        if isinstance(command, Answer | Fire):
            assert run.decided(command) == []


def test_the_recorded_event_is_that_which_was_stored(run: Run) -> None:
    seen: list[Recorded] = []

    def decode(recorded: Recorded) -> Event:
        seen.append(recorded)
        return CODEC.decode(recorded)

    again = process_aggregate(PROCESS, decode=decode, to_input=to_input)
    reduce(again.evolve, run.stored, again.initial)

    assert seen == [noting(Asked(5)).recorded]
