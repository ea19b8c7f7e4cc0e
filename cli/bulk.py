"""Bulk commands: one JSON object per line in, one per line out, pipelined and in the order of the input.

Promise: a line that fails yields an error in its place, with the command id that makes a retry safe, and the other
lines continue.
"""

from __future__ import annotations

import collections
import json
import signal
import types
from collections.abc import Iterator
from contextlib import closing
from typing import Any, BinaryIO

from cli import render, session
from cli.input_lines import LineTooLong, lines_of
from cli.progress import Progress
from domain.kernel.errors import EXIT_CODES, EsError, InvalidInput, Kind
from domain.kernel.messages import INPUT_DEPTH, Question, is_shallow, too_deep

_WORST_FIRST = (Kind.DAMAGED, Kind.UNAVAILABLE, Kind.REFUSED, Kind.INVALID, Kind.NOT_FOUND)


class Interrupted(EsError):
    """The user pressed Ctrl-C twice, so this reply was not waited for."""

    code = "interrupted"
    hint = "Send the line again with this command id."

    def __str__(self) -> str:
        return "interrupted before the reply arrived, so the outcome is unknown"


class Bulk:
    """One bulk run of one kind of command."""

    def __init__(self, role: str, kind: str) -> None:
        self._role = role
        self._kind = kind
        self._command_ids: collections.deque[str | None] = collections.deque()
        """Of the lines without a reply, in order."""
        self._interrupts = 0
        self._done = 0
        self._failed: collections.Counter[str] = collections.Counter()
        self._kinds: set[Kind] = set()

    def run(self, source: BinaryIO) -> int:
        """Send every line and print every reply; return the exit code."""
        before = signal.signal(signal.SIGINT, self._interrupted)
        progress = Progress(answers_meanwhile=True)
        try:
            with closing(session.caller()) as connection:
                questions = self._questions(source)
                for reply in connection.pipeline(self._role, questions, timeout_s=session.TIMEOUT_S * 3):
                    self._show(self._command_ids.popleft(), reply)
                    progress.show(lambda: f"{self._summary()}{self._rate(progress)}")
        except KeyboardInterrupt:
            # These requests may have taken effect: print their ids, so that a retry is safe.
            while self._command_ids:
                self._show(self._command_ids.popleft(), Interrupted())
        finally:
            # Ignore a third Ctrl-C: the process ends within milliseconds, and the summary must be printed.
            signal.signal(signal.SIGINT, signal.SIG_IGN if self._interrupts > 1 else before)
        codes = ", ".join(f"{code} {count}" for code, count in self._failed.most_common())
        progress.close(f"{self._summary()}{f' ({codes})' if codes else ''}{self._rate(progress)}")
        if self._interrupts:
            session.note("interrupted: the printed lines are final; send the remaining lines again")
            return render.EXIT_INTERRUPTED
        return next((EXIT_CODES[kind] for kind in _WORST_FIRST if kind in self._kinds), 0)

    def _interrupted(self, _signal: int, _frame: types.FrameType | None) -> None:
        """Stop reading at the first Ctrl-C; at the second, stop waiting for replies as well."""
        self._interrupts += 1
        if self._interrupts == 2:  # not again at a third: it would cut off the list of unknown outcomes
            raise KeyboardInterrupt

    def _questions(self, source: BinaryIO) -> Iterator[Question]:
        """The requests. The transport iterates in another thread, so nothing may be printed here."""
        actor = session.actor()
        for line in lines_of(source, lambda: self._interrupts > 0):
            command_id, question = _question(self._kind, line, actor)
            self._command_ids.append(command_id)
            yield question

    def _show(self, command_id: str | None, reply: dict[str, Any] | EsError) -> None:
        if isinstance(reply, EsError):
            self._failed[reply.code] += 1
            self._kinds.add(reply.kind)
            render.json_line({"command_id": command_id, "error": render.error_object(reply)})
        else:
            self._done += 1
            render.json_line(reply)

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
    return command_id, (kind, {"command_id": command_id, "actor": actor, "input": given})
