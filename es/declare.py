"""Declare events, commands and refusals in few lines.

Promise: a class is frozen and has slots, and type checkers know its fields (`dataclass_transform`). Refusal: a wire
name is stated, or derived from the name of a class, and never changes by itself: rename a class and keep its `wire`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from string import Formatter
from typing import Any, ClassVar, TypeVar, dataclass_transform

from domain.kernel.commands import Command
from domain.kernel.errors import EsError, Kind, Refusal
from domain.kernel.events import Event
from domain.kernel.personal import Erased, Personal, Sealed, Unreadable

E = TypeVar("E", bound=Event)
C = TypeVar("C", bound=Command)

_EVENT = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\.v[1-9][0-9]*")
_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_REQUEST = re.compile(rf"{_KEBAB.pattern}\.{_KEBAB.pattern}")
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass_transform(frozen_default=True)
def event(type: str) -> Callable[[type[E]], type[E]]:
    """Make a class an event with the wire name `type`, such as `wallet-opened.v1`.

    Its fields hold JSON values, or `PersonalText`. Raises ValueError for another form of name.
    """
    if not _EVENT.fullmatch(type):
        raise ValueError(f"the event type {type!r} has not the form wallet-opened.v1")

    def declare(class_: Any) -> Any:
        _need(class_, Event)
        made: Any = dataclass(frozen=True, slots=True)(class_)
        made.type = type
        return made

    return declare


@dataclass_transform(frozen_default=True)
def command(
    request: str = "",
    *,
    wire: str = "",
    creates: bool = False,
    reads: bool = True,
    in_group: bool = True,
    done: str = "",
    question: str = "",
) -> Callable[[type[C]], type[C]]:
    """Make a class a command. `request` is its kind of request: `wallets.open` is the command `open` of the group `wallets`.

    `wire` is its name in stored events, by default that of the class: `OpenWallet` is `open-wallet`. The other names
    are those of `Command`. Without a request no caller can send it. Raises ValueError for another form of name.
    """
    if request and not _REQUEST.fullmatch(request):
        raise ValueError(f"the request {request!r} has not the form wallets.open")

    def declare(class_: Any) -> Any:
        _need(class_, Command)
        made: Any = dataclass(frozen=True, slots=True)(class_)
        made.wire = wire or _CAPITAL.sub("-", class_.__name__).lower()
        if not _KEBAB.fullmatch(made.wire):
            raise ValueError(f"the wire name {made.wire!r} has not the form open-wallet")
        made.request, made.creates, made.reads = request, creates, reads
        made.in_group, made.done, made.question = in_group, done, question
        return made

    return declare


def _need(class_: Any, base: type) -> None:
    if not issubclass(class_, base):
        raise TypeError(f"{class_.__name__} must be a subclass of es.{base.__name__}")


# --- refusals --------------------------------------------------------------------------------


class StatedError(EsError):
    """Base of the errors that `refusal` and `not_found` make. Their fields are those in braces in their texts."""

    _message: ClassVar[str] = ""
    _hint: ClassVar[str] = ""

    def __init__(self, **values: object) -> None:
        """Raises TypeError for a missing or an unknown field, and for a personal value: errors are logged."""
        for name, value in values.items():
            if isinstance(value, Personal | Sealed | Erased | Unreadable):
                raise TypeError(
                    f"{type(self).__name__}.{name} is personal data, which an error must not hold"
                )
        super().__init__(**values)
        self.hint = self._hint.format_map(values)

    def __str__(self) -> str:
        return self._message.format_map({name: getattr(self, name) for name in self._fields})


class StatedRefusal(StatedError, Refusal):
    """An error that `refusal` makes: a rule does not allow the command."""


def refusal(code: str, message: str, hint: str = "Correct the command.") -> type[StatedRefusal]:
    """A class of refusals, in one line.

        InsufficientFunds = es.refusal("insufficient-funds", "the wallet holds {balance}, not {amount}", "Deposit first.")

    `decide` returns `InsufficientFunds(balance=…, amount=…)`. The message begins in lower case and has no full stop,
    the hint is a sentence that says what to do next. Raises ValueError for another form of code or of a field.
    """
    return _stated(StatedRefusal, Kind.REFUSED, code, message, hint)


def not_found(code: str, message: str, hint: str = "Check the id.") -> type[StatedError]:
    """The same as `refusal` for a thing that does not exist: exit code 3."""
    return _stated(StatedError, Kind.NOT_FOUND, code, message, hint)


T = TypeVar("T", bound=StatedError)


def _stated(base: type[T], kind: Kind, code: str, message: str, hint: str) -> type[T]:
    if not _KEBAB.fullmatch(code):
        raise ValueError(f"the code {code!r} has not the form insufficient-funds")
    names: dict[str, None] = {}
    for text in (message, hint):
        for _, name, _, _ in Formatter().parse(text):
            if name is not None and not (name.isidentifier() and not hasattr(EsError, name)):
                raise ValueError(f"the error {code!r} has a field {name!r}, which is no name for one")
            if name is not None:
                names[name] = None
    made: Any = type(
        "".join(word.title() for word in code.split("-")),
        (base,),
        {"code": code, "kind": kind, "hint": hint, "_message": message, "_hint": hint, "__doc__": message},
    )
    made._fields = tuple(names)
    declared: type[T] = made
    return declared
