"""A small load process for tests: it sends requests to a real system and writes their journal."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import es
from adapters.settings import Settings
from load.ledger import check
from load.results import Ledger
from tests.support.waiting import eventually

TIMEOUT_S = 5.0


class Driving:
    """The load processes of one run. Each is a thread with a client and a journal of its own."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self.processes: list[LoadProcess] = []
        with es.Client(settings=settings) as client:
            self.since = str(client.ask("events.read", {"from_end": True})["position"])

    def process(self) -> LoadProcess:
        made = LoadProcess(self._settings, self._folder / f"{len(self.processes)}.ndjson")
        self.processes.append(made)
        return made

    def start(self, count: int, turn: Callable[[LoadProcess, int], object]) -> None:
        """Let load processes repeat a turn, with a number that no other has, until `stop`."""

        def repeat(process: LoadProcess, number: int) -> None:
            while not self._stopping.is_set():
                turn(process, number)
                number += count

        for number in range(count):
            thread = threading.Thread(target=repeat, args=(self.process(), number), daemon=True)
            thread.start()
            self._threads.append(thread)

    def answered(self, more: int) -> None:
        """Wait until more requests have succeeded."""
        wanted = len(self.replies) + more
        eventually(lambda: len(self.replies) >= wanted, "requests are answered")

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def check(self) -> Ledger:
        for process in self.processes:
            process.close()
        return check(self._settings, self.journals, since_position=self.since)

    @property
    def journals(self) -> list[Path]:
        return [process.path for process in self.processes]

    @property
    def replies(self) -> list[Mapping[str, Any]]:
        """The successful replies."""
        return [reply for process in self.processes for reply in list(process.replies)]

    @property
    def unanswered(self) -> int:
        return sum(process.unanswered for process in self.processes)


class LoadProcess:
    def __init__(self, settings: Settings, path: Path) -> None:
        self.path = path
        self._file = path.open("w")
        self._client = es.Client(settings=settings, actor="load", timeout_s=TIMEOUT_S)
        self._count = 0
        self.replies: list[Mapping[str, Any]] = []
        self.unanswered = 0

    def create(self, number: int) -> Mapping[str, Any] | None:
        return self.send("users.create", email=f"user{number}@example.com", name=f"User {number}")

    def send(self, kind: str, /, **given: str) -> Mapping[str, Any] | None:
        """Send a request. Returns the reply, or None after an error."""
        number, self._count = self._count, self._count + 1
        role, _, operation = kind.partition(".")
        id_ = None if role == "ids" else es.new_command_id()
        at_us = time.time_ns() // 1000
        sent = {"n": number, "op": operation, "kind": kind, "id": id_, "at": at_us, "in": given}
        self._write(sent)
        body: Mapping[str, Any] = {"command_id": id_, "actor": "load", "input": given}
        if role == "ids":
            body = {"count": int(given["count"])}
        reply: Mapping[str, Any] | None = None
        try:
            reply = self._client.ask(kind, body, role=role)
        except (es.Refused, es.Invalid, es.NotFound, es.Unavailable, es.Damaged) as error:
            self.unanswered += id_ is not None and isinstance(error, es.Unavailable)
            self._write({"n": number, "us": self._us(at_us), "error": error.code, "kind": error.kind.value})
        else:
            self.replies.append(reply)
            self._write({"n": number, "us": self._us(at_us), "ok": reply})
        return reply

    def close(self) -> None:
        self._client.close()
        self._file.close()

    def _us(self, at_us: int) -> int:
        return time.time_ns() // 1000 - at_us

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
