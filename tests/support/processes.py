"""Processes of the operating system: start one, list those that run, and what a process has open or locked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The root of the repository."""


def start_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a process that runs `code` in the root of the repository."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def a_lock_on(database: Path) -> Iterator[int]:
    """Let another program hold the lock of a SQLite file's writer; its process id."""
    with start_python(_LOCK, str(database)) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        try:
            yield other.pid
        finally:
            other.stdin.close()


def all_processes() -> Iterator[tuple[int, list[str]]]:
    """The process id and the arguments of every process of this machine."""
    if Path("/proc/self/cmdline").exists():
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    arguments = (folder / "cmdline").read_bytes().split(b"\0")
                    if any(arguments):  # a zombie has none
                        yield int(folder.name), [os.fsdecode(argument) for argument in arguments]
        return
    listing = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True
    )
    for line in listing.stdout.splitlines():
        pid, _, arguments_text = line.strip().partition(" ")
        yield int(pid), arguments_text.split(" ")


def kill(pids: Iterable[int]) -> None:
    """Kill processes, some of which may have ended already."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def open_sockets(process: int | str = "self") -> int:
    """The number of sockets that a process has open. Other threads may close some meanwhile."""
    found = 0
    for entry in os.listdir(f"/proc/{process}/fd"):
        with suppress(FileNotFoundError):
            found += "socket" in os.readlink(f"/proc/{process}/fd/{entry}")
    return found


def locks(path: Path) -> list[tuple[str, str, str]]:
    """This process's locks on a file: kind (READ or WRITE), first and last byte."""
    inode = str(path.stat().st_ino)
    found = []
    for line in Path("/proc/locks").read_text().splitlines():
        if "->" not in line:  # a lock that waits
            _, _, _, kind, pid, place, first, last = line.split()
            if pid == str(os.getpid()) and place.rpartition(":")[2] == inode:
                found.append((kind, first, last))
    return sorted(found)


def forbid_opening_beside_sqlite() -> None:
    """Let Python's `open` fail in this process for a file that SQLite has open: closing it would drop SQLite's locks.

    A child process may read such a file, see `raw_bytes`.
    """
    own = Path("/proc/self/fd")
    if own.exists():
        sys.addaudithook(_refuse_database_files)


_DATABASE_FILES = (".db", ".db-wal", ".db-shm")


def _refuse_database_files(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not isinstance(arguments[0], (str, bytes)):
        return
    path = os.fsdecode(arguments[0])
    if arguments[2] & os.O_EXCL:
        return  # it fails for a file that exists, without a descriptor
    if path.endswith(_DATABASE_FILES) and _has_open(path):
        raise AssertionError(f"{path} is open in SQLite: read it in a child process")


def _has_open(path: str) -> bool:
    with suppress(FileNotFoundError):
        found = os.stat(path)
        for descriptor in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if os.path.samestat(os.fstat(int(descriptor)), found):
                    return True
    return False


def raw_bytes(path: Path) -> bytes:
    """The bytes of a file that SQLite may have open in this process."""
    return subprocess.run(["cat", path], capture_output=True, check=True).stdout
