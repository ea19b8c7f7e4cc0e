"""NDJSON in, NDJSON out: pipelined, in order of input. A bad line yields an error in its place, the rest goes on."""

from __future__ import annotations

import collections
import io
import json
import os
import select
import signal
import sys
import time
import types
from collections.abc import Iterator
from typing import Any, BinaryIO

from cli import render, session
from domain.kernel.errors import EXIT_CODES, EsError, InvalidInput, Kind
from domain.kernel.messages import Question

LINE_LIMIT_BYTES = 64 * 1024
_CHUNK_BYTES = 1 << 16
_LOOK_S = 0.1
_PROGRESS_S = 5.0


class LineTooLong(EsError):
    code = "line-too-long"
    kind = Kind.INVALID
    hint = "Send one object per line; the line was skipped."

    def __str__(self) -> str:
        return f"the line is longer than {LINE_LIMIT_BYTES // 1024} KiB"


class Interrupted(EsError):
    """The user pressed Ctrl-C twice: nobody waited for this answer."""

    code = "interrupted"
    hint = "Repeat the line with this command id."

    def __str__(self) -> str:
        return "interrupted before the answer came, so the outcome is unknown"


def open_input(name: str) -> BinaryIO:
    """Standard input for `-`, else a file."""
    if name == "-":
        return session.standard_input()
    try:
        return open(name, "rb")
    except OSError as error:
        raise InvalidInput(f"--from {name}", f"cannot be read: {error.strerror}") from error


class Bulk:
    """One bulk run of a kind of command."""

    def __init__(self, role: str, kind: str) -> None:
        self._role = role
        self._kind = kind
        self._command_ids: collections.deque[str | None] = collections.deque()
        self._interrupts = 0
        self._done = 0
        self._failed: collections.Counter[str] = collections.Counter()
        self._kinds: set[Kind] = set()

    def run(self, source: BinaryIO) -> int:
        """Send every line, print every answer; the exit code."""
        before = signal.signal(signal.SIGINT, self._interrupted)
        progress = _Progress()
        try:
            for reply in session.ask_many(
                self._role, self._questions(source), timeout_s=session.TIMEOUT_S * 3
            ):
                command_id = self._command_ids.popleft()
                self._show(command_id, reply)
                progress.show(self._done, sum(self._failed.values()))
        except KeyboardInterrupt:
            # What was sent and not answered may have happened: say so, with the ids that make repeating safe.
            while self._command_ids:
                self._show(self._command_ids.popleft(), Interrupted())
        finally:
            # Whoever pressed it twice may press it again: from here it is a matter of milliseconds.
            signal.signal(signal.SIGINT, signal.SIG_IGN if self._interrupts > 1 else before)
        progress.close(self._done, self._failed)
        if self._interrupts:
            session.note("interrupted: what is printed is settled; send the remaining lines again")
            return render.EXIT_INTERRUPTED
        for kind in (Kind.DAMAGED, Kind.UNAVAILABLE, Kind.REFUSED, Kind.INVALID, Kind.NOT_FOUND):
            if kind in self._kinds:
                return EXIT_CODES[kind]
        return 0

    def _interrupted(self, _signal: int, _frame: types.FrameType | None) -> None:
        """The first Ctrl-C stops reading and waits for what is under way; the second doesn't wait."""
        self._interrupts += 1
        if self._interrupts == 2:  # once: a third would cut off the telling of what is unknown
            raise KeyboardInterrupt

    def _questions(self, source: BinaryIO) -> Iterator[Question]:
        """Runs in a thread of its own: here nothing may print."""
        actor = session.actor()
        for line in _lines(source, lambda: self._interrupts > 0):
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


def _question(kind: str, line: bytes | LineTooLong, actor: str) -> tuple[str | None, Question]:
    """The command id and the request of a line, or what is wrong with it."""
    if isinstance(line, LineTooLong):
        return None, line
    try:
        given = json.loads(line.decode().removeprefix("\ufeff"))
    except UnicodeDecodeError:
        return None, InvalidInput("the line", "is not valid UTF-8")
    except (ValueError, RecursionError):
        return None, InvalidInput("the line", "is not valid JSON")
    if not isinstance(given, dict):
        return None, InvalidInput("the line", "is not a JSON object")
    try:
        command_id = session.command_id(given.pop("command_id", None), field="command_id")
    except InvalidInput as error:
        return None, error
    return command_id, (kind, {"command_id": command_id, "actor": actor, "input": given})


def _lines(source: BinaryIO, stopped: Any) -> Iterator[bytes | LineTooLong]:
    """Non-blank lines; a longer one than the limit is skipped, whatever its length, and answered by its error."""
    rest, skipping = b"", False
    for chunk in _chunks(source, stopped):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if skipping or len(line) > LINE_LIMIT_BYTES:
                yield LineTooLong()
            elif line.strip():
                yield line
            skipping = False
        if len(rest) > LINE_LIMIT_BYTES:
            rest, skipping = b"", True
    if stopped():
        return
    if skipping:
        yield LineTooLong()
    elif rest.strip():
        yield rest


def _chunks(source: BinaryIO, stopped: Any) -> Iterator[bytes]:
    """What can be read, looking now and then whether to stop: a plain read of a quiet pipe can't be ended."""
    try:
        fd = source.fileno()
    except (io.UnsupportedOperation, AttributeError):
        yield source.read()
        return
    while not stopped():
        if not select.select([fd], [], [], _LOOK_S)[0]:
            continue
        chunk = os.read(fd, _CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


class _Progress:
    """Progress on standard error: a moving line on a terminal, a plain one now and then otherwise."""

    def __init__(self) -> None:
        self._started_s = self._shown_s = time.monotonic()
        self._terminal = sys.stderr.isatty() and not (sys.stdout and sys.stdout.isatty())

    def show(self, done: int, failed: int) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s < (0.1 if self._terminal else _PROGRESS_S):
            return
        self._shown_s = now_s
        text = f"{done} done, {failed} failed, {(done + failed) / (now_s - self._started_s):.0f}/s"
        print(
            f"\r\x1b[K{text}" if self._terminal else f"es: {text}",
            end="" if self._terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def close(self, done: int, failed: collections.Counter[str]) -> None:
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        kinds = ", ".join(f"{code} {count}" for code, count in failed.most_common())
        text = f"{done} done, {sum(failed.values())} failed{f' ({kinds})' if kinds else ''}"
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr)
        session.note(f"{text}, {(done + sum(failed.values())) / elapsed_s:.0f}/s")
