"""Where the file of an event store lies: on which machine, at which path, and as which file.

Promise: a store that was restored in place, moved on its machine, or whose container got another name, is at the same
place; a copy is not. Refusal: nothing is concluded here from another place, because a copy may be all that is left.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    host: str
    path: str
    inode: int

    @classmethod
    def of(cls, path: Path) -> Place:
        """Where a file lies now. Raises OSError if it is missing."""
        real = path.resolve()
        return cls(socket.gethostname(), str(real), real.stat().st_ino)

    @classmethod
    def from_text(cls, text: str) -> Place | None:
        """The inverse of `to_text`; None for a text that is no place."""
        try:
            found = json.loads(text)
            return cls(str(found["host"]), str(found["path"]), int(found["inode"]))
        except (ValueError, KeyError, TypeError):
            return None

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    def is_same(self, other: Place) -> bool:
        """Whether two of host, path and inode agree: each of them alone changes without a copy, or agrees by chance."""
        pairs = ((self.host, other.host), (self.path, other.path), (self.inode, other.inode))
        return sum(one == another for one, another in pairs) >= 2

    def __str__(self) -> str:
        return f"{self.host}:{self.path}"
