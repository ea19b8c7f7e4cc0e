"""The files of SQLite databases: their creation, identity and locks. Nothing here opens a file that exists."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

_WRITER_BYTE = "120"
"""Where a writer locks the index of the log (WAL_WRITE_LOCK in SQLite's wal.c)."""


def create(path: Path) -> bool:
    """Create a file as 0600 before SQLite does, because -wal and -shm take its mode; False if the file exists.

    O_EXCL fails without a descriptor, so no lock of an open connection is lost.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
        return False
    return True


def inode_of(name: str) -> tuple[int, int]:
    found = os.stat(name)
    return found.st_dev, found.st_ino


def lock_holder(path: Path) -> str | None:
    """The other process that may write to a database, as Linux tells; None if it does not tell."""
    with contextlib.suppress(OSError, ValueError):
        database, index = (str(os.stat(f"{path}{suffix}").st_ino) for suffix in ("", "-shm"))
        for line in Path("/proc/locks").read_text().splitlines():
            if "->" in line:
                continue  # a process that waits
            _, _, _, kind, pid, place, first, _ = line.split()
            inode = place.rpartition(":")[2]
            is_writer = inode == database or (inode == index and first == _WRITER_BYTE)
            if kind == "WRITE" and is_writer and int(pid) not in (os.getpid(), 0, -1):
                return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    return None


def sync_directory(directory: Path) -> None:
    """Sync a directory: a new file survives a power cut only once its entry is on disk."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
