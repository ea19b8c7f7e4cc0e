"""What one invocation of the command line shares: its settings and its connection to the workers."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from domain.kernel.errors import EsError, InvalidInput, Kind

if TYPE_CHECKING:
    from adapters.settings import Settings
    from domain.kernel.messages import Body, Question
    from domain.kernel.ports.transport import Caller

TIMEOUT_S = 8.0
"""How long a command waits for its answer: with its start and its end it takes less than ten seconds."""


class NotConfirmed(EsError):
    """The user was asked whether they want this, and didn't say yes."""

    code = "not-confirmed"
    kind = Kind.REFUSED
    hint = "Nothing was done. Answer y, or give --yes."

    def __str__(self) -> str:
        return "not confirmed"


@dataclass
class Options:
    """The flags that hold for every command."""

    home: str | None = None
    debug: bool = False
    as_json: bool = False


options = Options()


def settings() -> Settings:
    from adapters.settings import load_settings

    return load_settings(home_flag=options.home)


def caller() -> Caller:
    """A connection to the workers, which are started if none run and nobody forbade it."""
    from adapters.wiring import open_caller

    chosen = settings()

    def start() -> bool:
        from cli.supervisor import start_supervisor

        if start_supervisor(chosen):
            note(f"started the workers in {chosen.home} (ES_AUTOSTART=0 turns this off)")
        return True

    return open_caller(chosen, on_absent=start if chosen.autostart else None)


def ask(role: str, kind: str, body: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S) -> Body:
    connection = caller()
    try:
        return connection.ask(role, kind, body, timeout_s=timeout_s)
    finally:
        connection.close()


def ask_many(
    role: str, questions: Iterable[Question], *, timeout_s: float = TIMEOUT_S
) -> Iterator[Body | EsError]:
    connection = caller()
    try:
        yield from connection.pipeline(role, questions, timeout_s=timeout_s)
    finally:
        connection.close()


def command_id(given: object, *, field: str = "--command-id") -> str:
    """The command id to use: the given one, or a new one. Raises InvalidInput if it isn't the text of a UUID."""
    if given is None:
        return str(uuid.uuid4())
    from domain.kernel.commands import parse_command_id

    return str(parse_command_id(given, field=field))


@contextmanager
def errors_of(command_id: str) -> Iterator[None]:
    """Errors of a command that was sent carry its id, with which it can be repeated."""
    try:
        yield
    except EsError as error:
        error.command_id = command_id
        raise


def actor() -> str:
    """Who asks, without personal data."""
    return f"uid:{os.getuid()}"


def standard_input() -> BinaryIO:
    """Standard input as bytes. Raises InvalidInput when it is closed."""
    if sys.stdin is None:
        raise InvalidInput("standard input", "is closed")
    return sys.stdin.buffer


def ask_first(question: str, *, because: str, yes: bool) -> None:
    """Ask before what can't be taken back. Without a terminal only `--yes` answers: raises InvalidInput."""
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise InvalidInput("--yes", f"is needed without a terminal: {because}", "If you are sure, add --yes.")
    print(f"{question} This cannot be undone [y/N]: ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()  # not input(): a Ctrl-C here is the same as anywhere else
    if answer.strip().lower() not in ("y", "yes"):
        raise NotConfirmed


def note(text: str) -> None:
    """A remark for a person; never part of the answer."""
    print(f"es: {text}", file=sys.stderr)
