"""Runs of the installed `es`: what one command printed, and a bulk that is under way."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import effort
from tests.support.people import command_ids, confirmed, errors, ndjson
from tests.support.waiting import DEADLINE_S, eventually

if TYPE_CHECKING:
    from tests.support.system import System

ES = str(Path(sys.executable).with_name("es"))
"""The installed script."""


@dataclass(frozen=True)
class Ran:
    """The exit code and the output of one command."""

    arguments: Sequence[str]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        return self.stdout.decode("utf-8", "replace")

    @property
    def err(self) -> str:
        return self.stderr.decode("utf-8", "replace")

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The NDJSON on standard output."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def object(self) -> dict[str, Any]:
        (only,) = self.objects
        return only

    @property
    def error(self) -> dict[str, Any]:
        """The error of a command with --json: one object on standard error."""
        value: dict[str, Any] = json.loads(self.stderr.splitlines()[-1])["error"]
        assert set(value) == {"code", "message", "hint"}, value
        return value

    def ok(self) -> Ran:
        assert self.code == 0, self
        return self

    def exits(self, code: int) -> Ran:
        """Check the exit code of a command whose answer says what is wrong."""
        assert self.without_traceback().code == code, self
        return self

    def failed(self, code: int) -> Ran:
        """Check the exit code, and that the error and its hint are one line each."""
        assert self.code == code, self
        said = self.without_traceback().err.splitlines()
        assert [line for line in said if line.startswith("error: ")], self
        assert [line for line in said if line.startswith("  hint: ")], self
        assert len([line for line in said if not line.startswith("es: ")]) <= 3, self
        return self

    def refused(self, name: str, code: int = 1) -> Ran:
        """Check the exit code and the error code of a command with --json."""
        assert (self.code, self.error["code"]) == (code, name), self
        return self

    def without_traceback(self) -> Ran:
        """Check that no bug reached the output: neither a traceback nor the handler of unexpected errors."""
        for bug in ("Traceback", "the command line failed with", '"internal"'):
            assert bug not in self.err + self.out, self
        return self

    def __repr__(self) -> str:
        shown = [argument[:60] for argument in self.arguments]
        return f"es {' '.join(shown)}\n-> {self.code}\nstdout: {self.out[-3000:]}\nstderr: {self.err[-3000:]}"


def finish(
    process: subprocess.Popen[bytes], stdin: bytes | None = None, *, deadline_s: float = DEADLINE_S
) -> Ran:
    """Wait for the end of a command. A command that hangs is killed and fails the test."""
    assert isinstance(process.args, list)
    arguments = [os.fsdecode(argument) for argument in process.args[1:]]
    try:
        out, err = process.communicate(stdin, timeout=deadline_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"no end after {deadline_s:g} s: {Ran(arguments, -9, out or b'', err or b'')}")
    return Ran(arguments, process.returncode, out or b"", err or b"")


class Bulk:
    """A bulk that is under way. Its answers go to a file, so that a test can read them meanwhile."""

    def __init__(self, system: System, command: str, inputs: Sequence[Mapping[str, Any]]) -> None:
        self._system = system
        self._inputs = inputs
        folder = Path(tempfile.mkdtemp(dir=system.root))
        self._answers = folder / "answers.ndjson"
        (folder / "input.ndjson").write_bytes(ndjson(inputs))
        with self._answers.open("wb") as answers:
            self.process = system.start(
                *("users", command, "--from", str(folder / "input.ndjson")),
                stdout=answers,
                environment={"ES_AUTOSTART": "0"},
            )

    def answers(self) -> list[dict[str, Any]]:
        """The complete lines so far."""
        whole, _, _ = self._answers.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def reached(self, count: int) -> None:
        """Wait until a number of lines is answered, or the bulk has ended."""
        eventually(
            lambda: self._answers.read_bytes().count(b"\n") >= count or self.process.poll() is not None,
            f"{count} answers",
        )

    def moments(self, what: str, count: int) -> Iterator[None]:
        """Wait for random numbers of answers, at which the caller strikes. They and their seed are printed."""
        chosen = random.Random(f"{effort.SEED} {what}")
        moments = sorted(chosen.randrange(len(self._inputs)) for _ in range(count))
        print(f"ES_TEST_SEED={effort.SEED}: {what} is killed after {moments} of {len(self._inputs)} answers")
        for moment in moments:
            self.reached(moment)
            yield

    def end(self) -> Ran:
        """Wait for its end; the answers are the output."""
        ran = finish(self.process, deadline_s=effort.BULK_S).without_traceback()
        return replace(ran, stdout=self._answers.read_bytes())

    def assert_exactly_once(self) -> Ran:
        """Wait for the end of a disturbed bulk of creates and repeat it; check that each line took effect once."""
        first = self.end()
        # After a long outage a bulk stops early; its answers are still those of its first lines.
        assert command_ids(first.objects) == command_ids(self._inputs)[: len(first.objects)]
        assert set(errors(first.objects)) <= {"unavailable"}, first
        system = self._system.ready()
        settled = confirmed(system.bulk("create", self._inputs).ok().objects)
        assert confirmed(first.objects).items() <= settled.items()
        assert system.registered() == settled
        assert len(system.registrations()) == len(set(settled.values())) == len(self._inputs)
        shown = {user["user_id"]: (user["email"], user["name"]) for user in system.users()}
        assert shown == {
            settled[person["command_id"]]: (person["email"], person["name"]) for person in self._inputs
        }
        return first
