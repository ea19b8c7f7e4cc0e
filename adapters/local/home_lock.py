"""The lock of a home: one supervisor holds it, and a client finds that supervisor by it.

Promise: the lock is on the folder itself. Nothing that is removed from a home, and no other path to it, makes room for a
second supervisor. The kernel releases the lock when its holder has ended, and not before. A file names the holder.
Refusal: nothing here waits.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NO_FOLDER_LOCKS = (errno.EBADF, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOLCK)


class _File:
    """An open file or folder."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def lock(self, how: int) -> bool:
        """Lock it unless another process does; whether that succeeded."""
        try:
            fcntl.flock(self._fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_FOLDER_LOCKS:
                raise
            # NFS locks no folder. There the lock of the note alone has to do.
        return True

    def is_at(self, path: Path) -> bool:
        """Whether a path leads to this file. True if that cannot be told now."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    def read(self) -> dict[str, Any]:
        with suppress(ValueError):
            found = json.loads(os.pread(self._fd, 4096, 0))
            if isinstance(found, dict):
                return found
        return {}

    def write(self, raw: bytes) -> None:
        with suppress(OSError):  # on a full disk the lock alone has to do
            os.pwrite(self._fd, raw, 0)
            os.ftruncate(self._fd, len(raw))

    def close(self) -> None:
        os.close(self._fd)


class OpenedHome(_File):
    """The folder of a home, kept open. Another folder at its path is another home."""

    def __init__(self, home: Path) -> None:
        # While it is open, no new folder at the same path can get the same inode number.
        super().__init__(os.open(home, os.O_RDONLY | os.O_DIRECTORY))
        self._home = home

    def is_lost(self) -> bool:
        """Whether the home was moved or removed: its path leads to no folder, or to another one."""
        return not self.is_at(self._home)


@dataclass(frozen=True)
class Holder:
    """The process that holds the lock, and what it told: nothing while it starts, then `listening`, then `stopping`."""

    pid: int | None
    state: str | None


def stop_mark(home: Path) -> Path:
    """The file that `es down` leaves and `es up` removes. Beside it no command starts the workers."""
    return home / "stopped"


def find_holder(home: Path) -> Holder | None:
    """The supervisor of a home; None if none lives."""
    try:
        folder = OpenedHome(home)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with closing(folder):
        try:
            file = _File(os.open(_note_path(home), os.O_RDONLY))
        except (FileNotFoundError, NotADirectoryError):
            return None if folder.lock(fcntl.LOCK_SH) else Holder(None, None)
        with closing(file):
            # A supervisor of an earlier version locked the file alone.
            if folder.lock(fcntl.LOCK_SH) and file.lock(fcntl.LOCK_SH):
                return None
            note = file.read()
            return Holder(note.get("pid"), note.get("state"))


class HomeLock:
    """The lock, held until `close` or the end of the process."""

    def __init__(self, home: Path) -> None:
        """Raises BlockingIOError if another process holds the lock or looks at it: try again."""
        self._home = home
        self._state = ""
        self.folder = OpenedHome(home)
        try:
            if not self.folder.lock(fcntl.LOCK_EX):
                raise BlockingIOError
            self._note = self._open_note()
        except OSError:
            self.folder.close()
            raise
        self.killed_pid: int | None = self._note.read().get("pid")
        """The process id of the last holder if it was killed; None if it ended in order."""
        self._note.write(b"")

    def tell(self, state: str) -> None:
        """Name this process in the home, with a state: `listening`, then `stopping`."""
        self._state = state
        self._note.write(json.dumps({"pid": os.getpid(), "state": state}).encode())

    def keep_told(self) -> None:
        """Write the note again if its file was removed."""
        if not self._note.is_at(_note_path(self._home)):
            note = self._open_note()
            self._note.close()
            self._note = note
            self.tell(self._state)

    def close(self) -> None:
        """Release the lock in order."""
        self._note.write(b"")
        self._note.close()
        self.folder.close()

    def _open_note(self) -> _File:
        note = _File(os.open(_note_path(self._home), os.O_RDWR | os.O_CREAT, 0o600))
        if not note.lock(fcntl.LOCK_EX):
            note.close()
            raise BlockingIOError
        return note


def _note_path(home: Path) -> Path:
    return home / "run" / "supervisor.lock"
