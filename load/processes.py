"""The load processes of a run, as their coordinator sees them.

Promise: each is ended with the block, and one that ends before it has told its last line is an error. Refusal: nothing is
measured here.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from types import TracebackType
from typing import Any

from domain.kernel.errors import AnsweredError, EsError, shortened

_READY_S = 60.0
_POLL_S = 0.1
_END_S = 10.0


class LoadProcessFailed(EsError):
    """A load process ended before the run was over, so the figures are not those of the scenario."""

    number: int
    what: str
    folder: str
    code = "load-process-failed"

    @property
    def hint(self) -> str:  # type: ignore[override]
        return f"What was sent until then is in the journals in {self.folder}. Run the scenario again."

    def __str__(self) -> str:
        return f"load process {self.number} {self.what}"


Line = tuple[int, dict[str, Any] | None]
"""The number of a process and a line of it. None at its end."""


class Processes:
    """Load processes, started with their parts."""

    def __init__(self, parts: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        """`parts` are the first lines of their standard inputs."""
        self._folder = folder
        self._lines: Queue[Line] = Queue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[Thread] = []
        self._done: set[int] = set()
        self._parts = parts
        self._environment = environment

    def __enter__(self) -> Processes:
        try:
            for number, part in enumerate(self._parts):
                self._start(number, part)
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()

    def _start(self, number: int, part: str) -> None:
        errors = os.open(self._errors(number), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "load.generator"],
                env=dict(self._environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        finally:
            os.close(errors)
        self._processes.append(process)
        thread = Thread(target=self._read, args=(number, process), name=f"load-{number}", daemon=True)
        self._threads.append(thread)
        thread.start()
        self._write(process, part)

    def _errors(self, number: int) -> Path:
        return self._folder / f"load-process-{number}.log"

    def _read(self, number: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for raw in process.stdout:
            try:
                self._lines.put((number, json.loads(raw)))
            except ValueError:  # cut short by its end
                break
        self._lines.put((number, None))

    @staticmethod
    def _write(process: subprocess.Popen[bytes], line: str) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(f"{line}\n".encode())
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: its last line, or the lack of one, tells why

    def begin(self, start: Mapping[str, Any]) -> None:
        """Send the start to all."""
        for process in self._processes:
            self._write(process, json.dumps(start))

    def await_ready(self) -> None:
        """Wait until all can begin. Raises what `lines` raises, and LoadProcessFailed after 60 s."""
        waiting = set(range(len(self._processes)))
        deadline = time.monotonic() + _READY_S
        while waiting:
            if time.monotonic() > deadline:
                raise self._failed(min(waiting), f"was not ready within {_READY_S:g} s")
            for number, _ in self.lines():
                waiting.discard(number)

    def stop(self) -> None:
        """End the arrivals. Requests in flight are still waited for."""
        for process in self._processes:
            if process.stdin is not None and not process.stdin.closed:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()

    @property
    def are_done(self) -> bool:
        """Whether all have told their last line."""
        return len(self._done) == len(self._processes)

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The lines that are here, waiting for at most 0.1 s. Raises the error of a process that failed."""
        wait_s = _POLL_S
        while True:
            try:
                number, line = self._lines.get(timeout=wait_s)
            except Empty:
                return
            wait_s = 0.0001
            if line is None:
                if number not in self._done:
                    raise self._ended_early(number)
                continue
            if "error" in line:
                raise AnsweredError.from_wire({**line["error"]})
            if "done" in line:
                self._done.add(number)
            yield number, line

    def _ended_early(self, number: int) -> LoadProcessFailed:
        code = self._processes[number].wait(_END_S)
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        said = self._errors(number).read_text("utf-8", "replace").strip().splitlines()
        why = f": {shortened(said[-1], 200)}" if said else ""
        return self._failed(number, f"{how} before the run was over{why}")

    def _failed(self, number: int, what: str) -> LoadProcessFailed:
        return LoadProcessFailed(number, what, str(self._folder))

    def _kill(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        for number, thread in enumerate(self._threads):
            thread.join(_END_S)
            if self._errors(number).stat().st_size == 0:
                self._errors(number).unlink()
