"""The client's journal: what a load process sent, written before it was sent, and what was answered.

One file for each load process, one JSON object a line:

    {"n": 7, "op": "create", "kind": "users.create", "id": "0193…", "at": 1790000000000000, "in": {…}}   before it is sent
    {"n": 7, "us": 2345, "ok": {…}}        the reply, or
    {"n": 7, "us": 2345, "error": "unavailable", "kind": "unavailable"}   the code and the kind of the error

`n` counts in this file, `at` is the intended start in microseconds since 1970, `us` the time from it to the reply. Only
what may have an effect is written: commands, and requests for ids (`"id": null`). The file holds made-up people or those of the
scenario's file, so it is private (0600) and lies in the run's own folder.

Promise: a request is in the file before its first byte is sent; a line that a kill has cut short is the last one.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import Any

from domain.kernel.messages import Body, to_json
from es.client import Failure

_NAME = "journal-{}.ndjson"


def journals_of(folder: Path) -> list[Path]:
    """The journals in a run's folder."""
    return sorted(folder.glob(_NAME.format("*")))


class Journal:
    """Writes the journal of one load process. Any thread may call it: a line is one write at the end of the file.

    Raises OSError if a line cannot be written whole. The request must then not be sent.
    """

    def __init__(self, folder: Path, process: int) -> None:
        """Raises FileExistsError for a journal of an earlier run."""
        path = folder / _NAME.format(process)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._numbers = count()

    def sent(
        self, operation: str, kind: str, command_id: str | None, at_us: int, input_: dict[str, Any]
    ) -> int:
        """Write a request before it is sent. Returns its number."""
        number = next(self._numbers)
        self._write({"n": number, "op": operation, "kind": kind, "id": command_id, "at": at_us, "in": input_})
        return number

    def answered(self, number: int, latency_us: int, reply: Body | Failure) -> None:
        if isinstance(reply, dict):
            self._write({"n": number, "us": latency_us, "ok": reply})
        else:
            self._write({"n": number, "us": latency_us, "error": reply.code, "kind": reply.kind.value})

    def _write(self, line: dict[str, Any]) -> None:
        raw = f"{to_json(line)}\n".encode("utf-8", "surrogatepass")
        if os.write(self._file, raw) != len(raw):
            raise OSError(28, os.strerror(28))

    def close(self) -> None:
        os.close(self._file)
