"""Bulk commands: one JSON object per line in, one per line out, pipelined and in the order of the input.

Promise: a line that fails yields an error in its place, with its number and the command id that makes a retry safe,
and the other lines continue. While a part is unavailable few lines are spent on it: the bulk slows down, then stops and
names the line from which to send the input again.
"""

from __future__ import annotations

import collections
import json
import signal
import time
import types
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO

from cli import OutputFailed, render, session
from cli.input_lines import LineTooLong, lines_of
from cli.progress import Progress
from domain.kernel.errors import (
    EXIT_CODES,
    CopiedStore,
    Damaged,
    EsError,
    ForeignPart,
    InvalidInput,
    KeyUnavailable,
    Kind,
    PartUnavailable,
)
from domain.kernel.messages import INPUT_DEPTH, Question, is_shallow, too_deep
from es.connection import command_body

_OUTAGE = tuple(each.code for each in (PartUnavailable, KeyUnavailable, Damaged, ForeignPart, CopiedStore))
"""Codes of errors that the next line probably meets as well."""
_PATIENCE_S = 10.0
"""How long an outage may last before the bulk stops."""
_OUTAGE_PAUSE_S = 0.25
"""The pause before each line during an outage."""
_RECOVERED = 8
"""How many lines in a row end an outage: on a full disk a line succeeds now and then."""
_WORST_FIRST = (Kind.DAMAGED, Kind.UNAVAILABLE, Kind.REFUSED, Kind.INVALID, Kind.NOT_FOUND)


class Interrupted(EsError):
    """The user pressed Ctrl-C twice, so this reply was not waited for."""

    code = "interrupted"
    hint = "Send the line again with this command id."

    def __str__(self) -> str:
        return "interrupted before the reply arrived, so the outcome is unknown"


@dataclass
class _Outage:
    """The lines from `line` on met it. `recovered` lines in a row did not."""

    line: int
    error: EsError
    since_s: float
    recovered: int = 0


class AnswerLost(EsError):
    """The answer could not be printed. The command may have taken effect."""

    code = "output-lost"
    hint = "Send the line again with this command id."

    def __str__(self) -> str:
        return "the answer could not be printed"


class Bulk:
    """One bulk run of one kind of command."""

    def __init__(self, role: str, kind: str) -> None:
        self._role = role
        self._kind = kind
        self._waiting: collections.deque[tuple[int, str | None]] = collections.deque()
        """Number and command id of the lines without a printed answer, in order."""
        self._unprinted: list[Mapping[str, Any]] = []
        """The answers to the first of them."""
        self._last_line = 0
        self._repeat_from: int | None = None
        """The first line whose reply was not waited for."""
        self._outage: _Outage | None = None
        self._interrupts = 0
        self._exit_code = 0
        self._done = 0
        self._failed: collections.Counter[str] = collections.Counter()
        self._kinds: set[Kind] = set()

    def run(self, source: BinaryIO) -> int:
        """Send every line and print every reply; return the exit code."""
        before = signal.signal(signal.SIGINT, self._interrupted)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores SIGHUP
                signal.signal(number, self._interrupted)
        progress = Progress(answers_meanwhile=True)
        try:
            with closing(session.caller()) as connection:
                questions = self._questions(source)
                for reply in connection.pipeline(
                    self._role, questions, timeout_s=session.TIMEOUT_S * 3, before_wait=self._print
                ):
                    self._show(*self._waiting[len(self._unprinted)], reply)
                    progress.show(lambda: f"{self._summary()}{self._rate(progress)}")
        except KeyboardInterrupt:
            self._print()
            # These requests may have taken effect: print their ids, so that a retry is safe.
            self._repeat_from = self._waiting[0][0] if self._waiting else None
            while self._waiting:
                self._show(*self._waiting[0], Interrupted())
                self._print()
        except OutputFailed:
            # The same on standard error, which alone is left. A line that was not sent has no command id here.
            # Taken one by one, not iterated: the thread that reads the input may still add lines.
            while self._waiting:
                line, command_id = self._waiting.popleft()
                session.tell(
                    {"command_id": command_id, "line": line, "error": render.error_object(AnswerLost())}
                )
            raise
        finally:
            # Ignore a third Ctrl-C: the process ends within milliseconds, and the summary must be printed.
            signal.signal(signal.SIGINT, signal.SIG_IGN if self._interrupts > 1 else before)
        codes = ", ".join(f"{code} {count}" for code, count in self._failed.most_common())
        progress.close(f"{self._summary()}{f' ({codes})' if codes else ''}{self._rate(progress)}")
        return self._ended()

    def _ended(self) -> int:
        """Say from which line to send the input again, if it has to be; return the exit code."""
        if self._interrupts:
            line = self._repeat_from or self._last_line + 1
            session.note(
                f"interrupted: the answers before line {line} are final; send the input again from line {line}"
            )
            return self._exit_code
        if self._outage is not None:
            session.note(
                f"line {self._outage.line} and those after it failed ({self._outage.error}). Fix this, then send the"
                f" input again from line {self._outage.line}; with the printed command ids that is safe"
            )
        return next((EXIT_CODES[kind] for kind in _WORST_FIRST if kind in self._kinds), 0)

    def _interrupted(self, number: int, _frame: types.FrameType | None) -> None:
        """Stop reading at the first Ctrl-C or SIGTERM; at the second, stop waiting for replies as well."""
        self._interrupts += 1
        self._exit_code = 128 + number
        if self._interrupts == 2:  # not again at a third: it would cut off the list of unknown outcomes
            raise KeyboardInterrupt

    def _questions(self, source: BinaryIO) -> Iterator[Question]:
        """The requests. The transport iterates in another thread, so nothing may be printed here."""
        actor = session.actor()
        for number, line in lines_of(source, self._has_to_stop):
            if self._outage is not None:
                time.sleep(_OUTAGE_PAUSE_S)
            if self._has_to_stop():
                return
            command_id, question = _question(self._kind, line, actor)
            self._last_line = number
            self._waiting.append((number, command_id))
            yield question

    def _has_to_stop(self) -> bool:
        outage = self._outage
        is_over = outage is not None and time.monotonic() - outage.since_s > _PATIENCE_S
        return is_over or self._interrupts > 0

    def _show(self, line: int, command_id: str | None, reply: dict[str, Any] | EsError) -> None:
        self._watch(line, reply)
        if isinstance(reply, EsError):
            self._failed[reply.code] += 1
            self._kinds.add(reply.kind)
            error = render.error_object(reply)
            self._unprinted.append({"line": line, "command_id": command_id, "error": error})
        else:
            self._done += 1
            self._unprinted.append(reply)

    def _print(self) -> None:
        """Print the answers that came together. Each time is a system call, which lets the other thread go on."""
        if self._unprinted:
            render.json_lines(self._unprinted)
            for _ in self._unprinted:
                self._waiting.popleft()
            self._unprinted.clear()

    def _watch(self, line: int, reply: dict[str, Any] | EsError) -> None:
        """Note the begin and the end of an outage."""
        if isinstance(reply, EsError) and reply.code in _OUTAGE:
            self._outage = self._outage or _Outage(line, reply, time.monotonic())
            self._outage.recovered = 0
        elif self._outage is not None:
            self._outage.recovered += 1
            if self._outage.recovered == _RECOVERED:
                self._outage = None

    def _summary(self) -> str:
        return f"{self._done} done, {self._failed.total()} failed"

    def _rate(self, progress: Progress) -> str:
        return f", {(self._done + self._failed.total()) / progress.elapsed_s:.0f}/s"


def _question(kind: str, line: bytes | LineTooLong, actor: str) -> tuple[str | None, Question]:
    """The command id and the request of a line, or the error of a line that holds none."""
    if isinstance(line, LineTooLong):
        return None, line
    try:
        text = line.decode().removeprefix("\ufeff")
        if not is_shallow(text, levels=INPUT_DEPTH):
            return None, too_deep("the line", INPUT_DEPTH)
        given = json.loads(text)
    except UnicodeDecodeError:
        return None, InvalidInput("the line", "is not valid UTF-8")
    except ValueError:
        return None, InvalidInput("the line", "is not valid JSON")
    if not isinstance(given, dict):
        return None, InvalidInput("the line", "is not a JSON object")
    try:
        command_id = session.command_id(given.pop("command_id", None), field="command_id")
    except InvalidInput as error:
        return None, error
    return command_id, (kind, command_body(command_id, actor, given))
