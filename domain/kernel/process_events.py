"""The events in the stream of a process instance, `process-<name>-<id>`. The state of the instance is their fold.

Promise: what a process decided is stored together with what it decided it on, so a repeat reads it and decides nothing.
Refusal: no personal value is readable here. A noted event keeps its sealed fields, which die with the data key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from domain.kernel.events import Event


@dataclass(frozen=True, slots=True)
class ProcessStarted(Event):
    """`rules` is the version of the rules by which the instance is decided until its end."""

    instance: int
    rules: int
    type: ClassVar[str] = "process-started.v1"


@dataclass(frozen=True, slots=True)
class ProcessNoted(Event):
    """The instance took note of a stored event. `data` is its JSON. `noted` is its wire name.

    The wire name of the noted event is not the type of this one: who follows that type must not find it twice.
    """

    event_id: str
    stream: str
    version: int
    position: int
    recorded_at_us: int
    noted: str
    data: str
    type: ClassVar[str] = "process-noted.v1"


@dataclass(frozen=True, slots=True)
class ProcessCommandIssued(Event):
    """A command to be sent until it is answered. `input` is its JSON, `request` the kind of its request."""

    step: str
    command_id: str
    request: str
    input: str
    type: ClassVar[str] = "process-command-issued.v1"


@dataclass(frozen=True, slots=True)
class ProcessCommandCancelled(Event):
    """The command of the step is not wanted any more. Its answer tells whether it took effect before."""

    step: str
    type: ClassVar[str] = "process-command-cancelled.v1"


@dataclass(frozen=True, slots=True)
class ProcessCommandAnswered(Event):
    """The answer of a command: without a `code` it is done, otherwise it was refused. `id` is that of the changed instance."""

    step: str
    code: str
    message: str
    id: int
    type: ClassVar[str] = "process-command-answered.v1"


@dataclass(frozen=True, slots=True)
class ProcessTimerSet(Event):
    """A timer, due at `due_us` (UTC microseconds since 1970). Setting it again replaces it."""

    timer: str
    timer_id: str
    due_us: int
    type: ClassVar[str] = "process-timer-set.v1"


@dataclass(frozen=True, slots=True)
class ProcessTimerStopped(Event):
    timer: str
    type: ClassVar[str] = "process-timer-stopped.v1"


@dataclass(frozen=True, slots=True)
class ProcessTimerFired(Event):
    timer: str
    type: ClassVar[str] = "process-timer-fired.v1"


@dataclass(frozen=True, slots=True)
class ProcessEnded(Event):
    """The instance decides nothing any more. Commands without an answer are still sent."""

    outcome: str
    type: ClassVar[str] = "process-ended.v1"


EVENTS: tuple[type[Event], ...] = (
    ProcessStarted,
    ProcessNoted,
    ProcessCommandIssued,
    ProcessCommandCancelled,
    ProcessCommandAnswered,
    ProcessTimerSet,
    ProcessTimerStopped,
    ProcessTimerFired,
    ProcessEnded,
)
