"""A connected client of a running system, as a service would be: requests without the start of a process.

    echo '{"what": "rename", "ids": ["…"], "rate": 1000}' | ES_HOME=… python -m scripts.bench.clients

As a program it is a load beside a measurement: so many renames or erasures a second, until its standard input closes.
Then it prints `{"count", "seconds", "failed"}`. It is a process of its own, so that it shares no interpreter.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from adapters.settings import Settings, load_settings
from adapters.wiring import open_caller
from cli.session import actor, command_id
from domain.kernel.errors import EsError
from domain.kernel.messages import Body, Question
from domain.users.commands import DEFAULT_BASIS
from scripts.bench.bulks import People
from tests.support.processes import ROOT
from tests.support.system import System

LIMIT_S = 60.0
"""How long one request may take. It ends a benchmark that hangs and measures nothing."""
_POLL_S = 0.002


def command(**fields: str) -> Body:
    return {"command_id": command_id(None), "actor": actor(), "input": fields}


class Client:
    """One connection for each role, kept."""

    def __init__(self, settings: Settings, people: People) -> None:
        self._caller = open_caller(settings)
        self._people = people

    def create(self) -> Body:
        (person,) = self._people.next(1)
        return self._ask("users", "users.create", command(**person))

    def rename(self, user_id: str) -> Body:
        return self._ask("users", "users.rename", command(user_id=user_id, name="Grace Hopper"))

    def get(self, user_id: str, *, after_position: int = 0) -> Body:
        body = {"user_id": user_id, **({"after_position": after_position} if after_position else {})}
        return self._ask("projections", "users.get", body)

    def page(self, *, after: str, limit: int) -> Body:
        return self._ask("projections", "users.list", {"limit": limit, "after": after})

    def erase(self, user_id: str) -> None:
        """Erase a person, and wait until nothing of them is left."""
        self._ask("users", "users.erase", command(user_id=user_id, basis=DEFAULT_BASIS))
        deadline = time.monotonic() + LIMIT_S
        while self._ask("erasures", "erasures.status", {"user_id": user_id})["erasure"] != "completed":
            assert time.monotonic() < deadline, f"an erasure was not completed within {LIMIT_S:g} s"
            time.sleep(_POLL_S)

    def owed(self) -> int:
        """How many erasures are owed, at most one page of them."""
        return len(self._ask("erasures", "erasures.owed", {"limit": 1000})["owed"])

    def creates(self, count: int, *, in_flight: int) -> float:
        """Creates per second with so many of them in flight."""
        questions = [("users.create", command(**person)) for person in self._people.next(count)]
        room = threading.Semaphore(in_flight)

        def waiting() -> Iterator[Question]:
            for question in questions:
                room.acquire()
                yield question

        began_s = time.perf_counter()
        for reply in self._caller.pipeline("users", waiting(), timeout_s=LIMIT_S):
            room.release()
            if isinstance(reply, EsError):
                raise reply
        return count / (time.perf_counter() - began_s)

    def _ask(self, role: str, kind: str, body: Mapping[str, Any]) -> Body:
        return self._caller.ask(role, kind, body, timeout_s=LIMIT_S)

    def close(self) -> None:
        self._caller.close()


def timed_ms(act: Callable[..., object], *arguments: Any, **keywords: Any) -> float:
    began_s = time.perf_counter()
    act(*arguments, **keywords)
    return (time.perf_counter() - began_s) * 1000


@contextmanager
def load(system: System, what: str, ids: Sequence[str], rate: float) -> Iterator[dict[str, Any]]:
    """Renames or erasures beside the block, so many a second. What it yields has their number once the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.bench.clients"],
        cwd=ROOT,
        env=system.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    found: dict[str, Any] = {}
    try:
        process.stdin.write(json.dumps({"what": what, "ids": list(ids), "rate": rate}) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "begun\n", "the load did not begin"
        yield found
        process.stdin.close()
        found.update(json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def main() -> None:
    plan = json.loads(sys.stdin.readline())
    is_over = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        is_over.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    kind = f"users.{plan['what']}"
    began_s = time.perf_counter()

    def paced() -> Iterator[Question]:
        number = 0
        while not is_over.is_set() and (plan["what"] != "erase" or number < len(plan["ids"])):
            behind_s = time.perf_counter() - began_s - number / plan["rate"]
            if behind_s < 0:
                time.sleep(-behind_s)
            yield kind, _command(plan["what"], plan["ids"][number % len(plan["ids"])])
            number += 1
            if number == 1:
                print("begun", flush=True)

    count = failed = 0
    with closing(open_caller(load_settings())) as caller:
        for reply in caller.pipeline("users", paced(), timeout_s=LIMIT_S):
            count += 1
            failed += isinstance(reply, EsError)
    seconds = time.perf_counter() - began_s
    print(json.dumps({"count": count, "seconds": seconds, "failed": failed}), flush=True)


def _command(what: str, user_id: str) -> Body:
    changed = {"name": "Grace Hopper"} if what == "rename" else {"basis": DEFAULT_BASIS}
    return command(user_id=user_id, **changed)


if __name__ == "__main__":
    main()
