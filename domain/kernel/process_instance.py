"""An instance of a process as an aggregate: what it notes, what follows, and what is open.

Promise: the same happening changes an instance once, and everything that follows from it is stored with it. Refusal: an
effect that is not possible, or an author's function that raises, stores nothing: the instance goes into quarantine.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid5

from domain.kernel.aggregate import Aggregate
from domain.kernel.commands import Command
from domain.kernel.errors import EsError
from domain.kernel.events import Event, Recorded
from domain.kernel.messages import Body, to_json
from domain.kernel.process import (
    PREFIX,
    Answered,
    Cancel,
    Effect,
    End,
    Process,
    Send,
    SetTimer,
    StopTimer,
    TimedOut,
)
from domain.kernel.process_errors import ProcessFailed
from domain.kernel.process_events import (
    EVENTS,
    ProcessCommandAnswered,
    ProcessCommandCancelled,
    ProcessCommandIssued,
    ProcessEnded,
    ProcessNoted,
    ProcessStarted,
    ProcessTimerFired,
    ProcessTimerSet,
    ProcessTimerStopped,
)


@dataclass(frozen=True, slots=True)
class Issued:
    """A command that has no answer yet."""

    step: str
    command_id: UUID
    request: str
    input: str
    is_cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Timer:
    timer_id: UUID
    due_us: int


@dataclass(frozen=True, slots=True)
class Instance:
    """One run of a process: the author's state, and what is open."""

    rules: int = 0
    """0: not begun."""
    state: Any = None
    issued: Mapping[str, Issued] = field(default_factory=dict)
    """The commands without an answer, by step, in the order in which they were issued."""
    steps: frozenset[str] = frozenset()
    """All steps that were ever issued."""
    timers: Mapping[str, Timer] = field(default_factory=dict)
    outcome: str = ""
    """Not empty once it has ended."""

    @property
    def is_open(self) -> bool:
        """Whether anything can follow by itself, or from an event."""
        return self.rules > 0 and (not self.outcome or bool(self.issued))

    @property
    def due_us(self) -> int | None:
        """When the next timer is due."""
        return min((timer.due_us for timer in self.timers.values()), default=None)


# Commands of an instance. No caller can send them: the manager makes them.


@dataclass(frozen=True, slots=True)
class Note:
    """Let `instance` take note of a stored event, decoded in `event`. `at_us` is the present time."""

    instance: int
    event: Event
    recorded: Recorded
    at_us: int
    wire = "note-event"

    @property
    def cause(self) -> UUID:
        return self.recorded.event_id


@dataclass(frozen=True, slots=True)
class Answer:
    """Take note of the answer to an issued command: an error of a rule, or None. `id` is that of the changed instance."""

    issued: Issued
    error: EsError | None
    at_us: int
    id: int = 0
    wire = "note-answer"

    @property
    def cause(self) -> UUID:
        return self.issued.command_id


@dataclass(frozen=True, slots=True)
class Fire:
    """Fire a timer that is due."""

    name: str
    timer: Timer
    at_us: int
    wire = "fire-timer"

    @property
    def cause(self) -> UUID:
        return self.timer.timer_id


InstanceCommand = Note | Answer | Fire


def command_id_of(command: InstanceCommand, stream: str) -> UUID:
    """The id of a command of an instance. A repeat has the same, so nothing is noted twice."""
    return derived_id(command.cause, f"{command.wire} {stream}")


_LOW_BITS = (1 << 62) - 1
_TIME_ORDERED = 7


def derived_id(cause: UUID, name: str) -> UUID:
    """An id that follows from its cause and a name. That of a time-ordered cause keeps its time, as an event id does."""
    if cause.version != _TIME_ORDERED:
        return uuid5(cause, name)
    hashed = int.from_bytes(sha256(cause.bytes + name.encode()).digest()[:8], "big")
    return UUID(int=cause.int & ~_LOW_BITS | hashed & _LOW_BITS)


def process_aggregate(
    process: Process[Any], *, decode: Callable[[Recorded], Event], to_input: Callable[[Command], Body]
) -> Aggregate[Instance, InstanceCommand]:
    """The instances of a process as an aggregate. `decode` reads a stored event, `to_input` writes the input of a command."""
    running = _Running(process, decode, to_input)
    return Aggregate(
        name=f"{PREFIX}{process.name}",
        initial=Instance(),
        evolve=running.evolve,
        decide=running.decide,
        events=EVENTS,
    )


@dataclass(frozen=True, slots=True)
class _Running:
    """`evolve` and `decide` of the instances of a process."""

    process: Process[Any]
    decode: Callable[[Recorded], Event]
    to_input: Callable[[Command], Body]

    # --- evolve ----------------------------------------------------------------------------------

    def evolve(self, instance: Instance, event: Event) -> Instance:
        """The instance after an event of its stream.

        Raises ProcessRulesUnknown, ProcessFailed if the author's `evolve` raises, or the error of a noted event that
        cannot be decoded.
        """
        match event:
            case ProcessStarted(instance=id_, rules=rules):
                return Instance(rules, self._initial(id_, rules))
            case ProcessNoted():
                return self._evolved(instance, self.decode(_recorded(event)))
            case ProcessCommandAnswered(step=step, code=code, message=message, id=id_):
                issued = {name: each for name, each in instance.issued.items() if name != step}
                return self._evolved(replace(instance, issued=issued), Answered(step, code, message, id_))
            case ProcessTimerFired(timer=name):
                return self._evolved(_without_timer(instance, name), TimedOut(name))
        return _changed(instance, event)

    def _initial(self, id_: int, rules: int) -> Any:
        initial = self.process.rules_of(rules).initial
        try:
            return initial(id_)
        except Exception as error:  # an author's code may raise anything
            raise self._failed("initial", None, error) from error

    def _evolved(self, instance: Instance, happening: Event) -> Instance:
        """After the end nothing reaches the author's rules any more."""
        if instance.outcome:
            return instance
        evolve = self.process.rules_of(instance.rules).evolve
        try:
            return replace(instance, state=evolve(instance.state, happening))
        except Exception as error:  # an author's code may raise anything
            raise self._failed("evolve", happening, error) from error

    # --- decide ----------------------------------------------------------------------------------

    def decide(self, instance: Instance, command: InstanceCommand) -> Sequence[Event] | EsError:
        """The events that a happening leads to; none if it does not concern the instance any more."""
        match command:
            case Note(event=event, recorded=recorded):
                return self._note(instance, command, event, recorded)
            case Answer(issued=issued, error=error, id=id_):
                if issued.step not in instance.issued:
                    return []
                step, code, message = issued.step, error.code if error else "", str(error or "")
                return self._follow(
                    instance,
                    [ProcessCommandAnswered(step, code, message, id_)],
                    Answered(step, code, message, id_),
                    command,
                )
            case Fire(name=name, timer=timer):
                if instance.timers.get(name) != timer:
                    return []
                return self._follow(instance, [ProcessTimerFired(name)], TimedOut(name), command)

    def _note(
        self, instance: Instance, command: Note, event: Event, recorded: Recorded
    ) -> Sequence[Event] | EsError:
        begins = not instance.rules
        if instance.outcome or (begins and type(event) not in self.process.starts):
            return []
        try:
            noted = _noted(recorded)
        except UnicodeError:
            return ProcessFailed(self.process.name, f"cannot keep the text of {recorded.type}")
        started = [ProcessStarted(command.instance, self.process.rules)] if begins else []
        return self._follow(instance, [*started, noted], event, command)

    def _follow(
        self, instance: Instance, events: list[Event], happening: Event, command: InstanceCommand
    ) -> Sequence[Event] | EsError:
        """The events with what the author's `react` makes of the happening, in the state after it."""
        try:
            for event in events:
                instance = self.evolve(instance, event)
            if instance.outcome:
                return events
            for effect in self._reaction(instance, happening):
                event = self._event(instance, effect, command)
                instance = self.evolve(instance, event)
                events.append(event)
        except EsError as error:
            return error
        return events

    def _reaction(self, instance: Instance, happening: Event) -> Sequence[Effect]:
        react = self.process.rules_of(instance.rules).react
        try:
            return list(react(instance.state, happening))
        except Exception as error:  # an author's code may raise anything
            raise self._failed("react", happening, error) from error

    def _event(self, instance: Instance, effect: Effect, command: InstanceCommand) -> Event:
        """The event of an effect. Raises ProcessFailed for one that is not possible."""
        match effect:
            case _ if instance.outcome:
                raise ProcessFailed(
                    self.process.name, f"has an effect after its end: {type(effect).__name__}"
                )
            case Send(step=step, command=sent):
                if step in instance.steps:
                    raise ProcessFailed(self.process.name, f"sends the step {step!r} a second time")
                id_ = derived_id(command.cause, f"{self.process.name} {step}")
                return ProcessCommandIssued(step, str(id_), sent.request, to_json(self._input(sent)))
            case Cancel(step=step):
                if step not in instance.issued:
                    raise ProcessFailed(self.process.name, f"cancels the step {step!r}, which is not open")
                return ProcessCommandCancelled(step)
            case SetTimer(timer=name, after_s=after_s):
                id_ = derived_id(command.cause, f"{self.process.name} timer {name}")
                return ProcessTimerSet(name, str(id_), command.at_us + round(after_s * 1_000_000))
            case StopTimer(timer=name):
                return ProcessTimerStopped(name)
            case End(outcome=outcome):
                return ProcessEnded(outcome or "completed")
        raise ProcessFailed(self.process.name, f"has an unknown effect: {type(effect).__name__}")

    def _input(self, command: Command) -> Body:
        if not command.request:
            raise ProcessFailed(self.process.name, f"sends {command.wire}, which has no request")
        try:
            return self.to_input(command)
        except (TypeError, ValueError) as error:
            raise ProcessFailed(self.process.name, f"cannot send {command.wire}: {error}") from error

    def _failed(self, function: str, happening: Event | None, error: Exception) -> ProcessFailed:
        # Only its class and place: the text of an error may hold anything.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{place.filename.rpartition('/')[2]}, line {place.lineno}"
        happened = getattr(happening, "type", "") or type(happening).__name__
        about = f" for {happened}" if happening is not None else ""
        return ProcessFailed(self.process.name, f"{function} raises {type(error).__name__}{about} ({where})")


def _changed(instance: Instance, event: Event) -> Instance:
    """The instance after an event that does not reach the author's rules."""
    match event:
        case ProcessCommandIssued(step=step, command_id=id_, request=request, input=given):
            issued = Issued(step, UUID(id_), request, given)
            return replace(instance, issued={**instance.issued, step: issued}, steps=instance.steps | {step})
        case ProcessCommandCancelled(step=step) if step in instance.issued:
            cancelled = replace(instance.issued[step], is_cancelled=True)
            return replace(instance, issued={**instance.issued, step: cancelled})
        case ProcessTimerSet(timer=name, timer_id=id_, due_us=due_us):
            return replace(instance, timers={**instance.timers, name: Timer(UUID(id_), due_us)})
        case ProcessTimerStopped(timer=name):
            return _without_timer(instance, name)
        case ProcessEnded(outcome=outcome):
            return replace(instance, outcome=outcome, timers={})
    return instance


def _without_timer(instance: Instance, name: str) -> Instance:
    return replace(instance, timers={each: timer for each, timer in instance.timers.items() if each != name})


def _noted(recorded: Recorded) -> ProcessNoted:
    return ProcessNoted(
        str(recorded.event_id),
        recorded.stream,
        recorded.version,
        recorded.position,
        recorded.recorded_at_us,
        recorded.type,
        recorded.data.decode(),
    )


def _recorded(noted: ProcessNoted) -> Recorded:
    """The noted event as it was stored."""
    return Recorded(
        noted.stream,
        noted.version,
        noted.position,
        noted.recorded_at_us,
        UUID(noted.event_id).bytes,
        noted.noted,
        noted.data.encode(),
        b"{}",
    )
