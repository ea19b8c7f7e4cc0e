"""What the commands of one `es` process share: its flags, its settings, its connection to the workers, its user.

Start-up: nothing of a transport is imported before the first request.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from cli import render
from domain.kernel.errors import EsError, InvalidInput, Kind
from domain.kernel.messages import to_json
from es.connection import TIMEOUT_S as TIMEOUT_S
from es.connection import Connection, Listing, chosen_command_id, command_body

if TYPE_CHECKING:
    from adapters.settings import Settings
    from domain.kernel.messages import Body

_LINE_LIMIT_BYTES = 64 * 1024
_STOP_CHECK_MS = 100


class OutputLost(EsError):
    """The answer cannot be written to standard output."""

    reason: str
    code = "output-lost"
    hint = "Retry with a standard output that can be written to."

    def __str__(self) -> str:
        return f"standard output cannot be written: {self.reason}"


class Interrupted(EsError):
    """A signal ended the process after a command was sent and before its answer was printed."""

    signal: str
    code = "interrupted"
    hint = "The outcome is unknown. A retry with the command id is safe."

    def __str__(self) -> str:
        return f"ended by {self.signal} before the answer was printed"


class Ended(KeyboardInterrupt):
    """A signal asks the process to end. Like Ctrl-C it passes through everything that handles errors."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


class NotConfirmed(EsError):
    """The user did not confirm the command."""

    code = "not-confirmed"
    kind = Kind.REFUSED
    hint = "Nothing was changed. Answer y, or add --yes."

    def __str__(self) -> str:
        return "not confirmed"


@dataclass
class Options:
    """The flags of the root command, and whether `--json` was given to any command."""

    home: str | None = None
    debug: bool = False
    as_json: bool = False
    sent: str | None = None
    """The id of the command that this process has sent. Every failure after that shows it: a retry needs it."""
    module: str | None = None
    """The module of ES_FEATURES that brings the group of the command. If workers refuse it, a failure says so."""
    ended: Ended | None = None
    """The signal that asked this process to end. An import in a library may raise another error in its place."""


options = Options()
_noted: set[str] = set()
"""Unknown settings that were mentioned already."""


def settings() -> Settings:
    """The settings. A variable whose name resembles a setting is mentioned once: it has no effect."""
    from adapters.settings import load_settings, similar_setting

    loaded = load_settings(home_flag=options.home)
    for name in {*loaded.unknown} - _noted:
        _noted.add(name)
        if meant := similar_setting(name):
            note(f"{name} is no setting and was ignored; did you mean {meant}?")
    return loaded


# --- requests --------------------------------------------------------------------------------


def caller() -> Connection:
    """A connection to the workers. It starts them if none run, unless `ES_AUTOSTART=0` or after `es down`."""
    chosen = settings()

    def start() -> bool:
        from cli.supervisor import lives, refuse_differences, start_supervisor

        if chosen.autostart and start_supervisor(chosen, by_itself=True):
            note(f"started the workers in {chosen.home} (ES_AUTOSTART=0 turns this off)")
            return True
        if not chosen.autostart and not lives(chosen):
            return False
        # They run, and none has the role: waiting for it would be in vain if they do not know the feature.
        refuse_differences(chosen, {}, only=["features"])
        return True

    return Connection(chosen, on_absent=start)


def ask(role: str, kind: str, body: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S) -> Body:
    """Send one request and return the reply. Raises the `EsError` that the worker replied with."""
    with closing(caller()) as connection:
        return connection.ask(role, kind, body, timeout_s=timeout_s)


@contextmanager
def listing(kind: str, body: Mapping[str, Any], name: str, *, limit: int) -> Iterator[Listing]:
    """At most `limit` rows of a list."""
    with closing(caller()) as connection:
        yield connection.listing(kind, body, name, limit=limit)


def listed(kind: str, body: Mapping[str, Any], name: str) -> list[Body]:
    """All rows of a list that is short."""
    with listing(kind, body, name, limit=sys.maxsize) as rows:
        return [*rows]


def send(role: str, kind: str, fields: Mapping[str, Any], *, given_id: str | None) -> Body:
    """Send one command and return the reply. An error carries the command id, with which a retry is safe."""
    chosen = command_id(given_id)
    sending(chosen)
    return ask(role, kind, command_body(chosen, actor(), fields))


def command_id(given: object, *, field: str = "--command-id") -> str:
    """The given command id, or a new one. Raises InvalidInput unless it is the text of a UUID."""
    return chosen_command_id(given, field=field)


def sending(command_id: str) -> None:
    """From here on every failure of this process shows the command id, also if a signal ends it."""
    options.sent = command_id
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # `nohup` ignores SIGHUP.
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    options.ended = Ended(number)
    raise options.ended


def actor() -> str:
    """The user who sends commands, without personal data."""
    return f"uid:{os.getuid()}"


# --- standard input and standard error -------------------------------------------------------


def standard_input() -> BinaryIO:
    """Standard input as bytes. Raises InvalidInput if it is closed."""
    if sys.stdin is None:
        raise InvalidInput("standard input", "is closed")
    return sys.stdin.buffer


def is_readable(fd: int) -> bool:
    """Whether a read of a descriptor returns at once. Waits for 0.1 s at most.

    A read that waits could not be stopped, and a signal that comes just before it is handled only after it.
    """
    ready = select.poll()  # not select(), which knows descriptors below 1024 only
    ready.register(fd, select.POLLIN)
    return bool(ready.poll(_STOP_CHECK_MS))


def unreadable(what: str, error: OSError) -> InvalidInput:
    return InvalidInput(what, f"cannot be read: {error.strerror or 'it is not open for reading'}")


def from_argument(value: str) -> str:
    """The value of an argument; for `-` a line of standard input, which keeps personal data out of process lists."""
    if value != "-":
        return value
    try:
        return standard_input().readline(_LINE_LIMIT_BYTES).decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidInput("standard input", "is not valid UTF-8") from error
    except OSError as error:
        raise unreadable("standard input", error) from error


def is_interactive() -> bool:
    """Whether a question can be seen and answered: both ends are a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask_first(question: str, *, because: str, yes: bool) -> None:
    """Ask for confirmation unless `yes`. Raises NotConfirmed, or InvalidInput if there is no terminal to ask on."""
    if yes:
        return
    if not is_interactive():
        raise InvalidInput("--yes", f"is needed without a terminal: {because}", "If you are sure, add --yes.")
    print(f"{render.safe(question)} This cannot be undone [y/N]: ", end="", file=sys.stderr, flush=True)
    while not is_readable(sys.stdin.fileno()):
        pass
    reply = sys.stdin.readline()  # not input(), which handles Ctrl-C in its own way
    if reply.strip().lower() not in ("y", "yes"):
        raise NotConfirmed


def tell(value: Mapping[str, Any]) -> None:
    """Print an object to standard error."""
    print(to_json(value), file=sys.stderr)


def note(text: str) -> None:
    """Print a remark to standard error."""
    print(f"es: {render.safe(text)}", file=sys.stderr)
