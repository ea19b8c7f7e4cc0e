"""The log of a test node in a folder that looks like a server's data folder, so that it can be copied and restored.

Promise: what was committed is there after the process was killed. Refusal: it survives no power cut, and it removes
nothing: no deletion, no scavenge.

`chunk-000000.000000` has a line for each record. `chaser.chk` and `writer.chk` say how much of it is committed, in
bytes. A `truncate.chk`, as a restore makes it, cuts the chunk there and is removed, as the server does it.
"""

from __future__ import annotations

import base64
import json
import os
import struct
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from tests.support.node.log import Log, Proposed

CHUNK = "chunk-000000.000000"
MARKS = ("writer.chk", "chaser.chk")


class StoredLog(Log):
    def __init__(self, folder: Path) -> None:
        self._chunk: BinaryIO | None = None
        super().__init__()  # commits nothing: there is no chunk yet
        self._folder = folder
        self._truncate()
        with (folder / CHUNK).open("a+b") as chunk:
            chunk.seek(0)
            lines = chunk.read()[: self._committed()].splitlines()
        for line in lines:
            self._replay(json.loads(line))
        self._marks = [os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600) for name in MARKS]
        self._chunk = (folder / CHUNK).open("ab", buffering=0)
        self._make_index()
        if not lines:
            self.system_event("$users", "$UserCreated")
            self.system_event("$$$settings", "$metadata")

    def _truncate(self) -> None:
        mark = self._folder / "truncate.chk"
        if mark.exists():
            with (self._folder / CHUNK).open("r+b") as chunk:
                chunk.truncate(*struct.unpack("<q", mark.read_bytes()))
            mark.unlink()

    def _committed(self) -> int:
        """How much of the chunk was committed: a process that was killed may have written more."""
        mark = self._folder / "chaser.chk"
        (size,) = struct.unpack("<q", mark.read_bytes()) if mark.exists() else (0,)
        if (self._folder / CHUNK).stat().st_size > size:
            with (self._folder / CHUNK).open("r+b") as chunk:
                chunk.truncate(size)
        return int(size)

    def _make_index(self) -> None:
        """Files of an index, because a backup copies them first."""
        (self._folder / "index").mkdir(exist_ok=True)
        for name in ("indexmap", "stream-existence.chk"):
            (self._folder / "index" / name).touch()

    def _replay(self, line: list[str]) -> None:
        stream, id_, type_, content_type, data, metadata, ticks = line
        contents = (base64.b64decode(data), base64.b64decode(metadata))
        event = Proposed(UUID(id_), type_, content_type, *contents)
        super()._commit(stream, self.last_revision(stream) + 1, event, created_ticks=int(ticks))

    def _commit(self, stream: str, revision: int, event: Proposed, created_ticks: int = 0) -> None:
        if self._chunk is None:
            return
        super()._commit(stream, revision, event)
        contents = [base64.b64encode(part).decode() for part in (event.data, event.metadata)]
        ticks = str(self._records[-1].created_ticks)
        line = [stream, str(event.id), event.type, event.content_type, *contents, ticks]
        self._chunk.write(json.dumps(line).encode() + b"\n")
        size = struct.pack("<q", self._chunk.tell())
        for mark in self._marks:
            os.pwrite(mark, size, 0)  # at once: a process that is killed leaves the former or the new value
