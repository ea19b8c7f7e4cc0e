"""Processes of the operating system: start one, list those that run, and count open sockets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

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
