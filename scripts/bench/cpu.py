"""What processes have used, from /proc/PID: CPU time of all threads, bytes written to files, memory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

Group = Callable[[], Iterable[int]]
"""The processes whose use is added up under one name."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Meter:
    """What groups of processes have used since the last call of `restart`, by name: CPU seconds, or another reading."""

    def __init__(self, groups: Mapping[str, Group], reading: Callable[[int], float] | None = None) -> None:
        self._groups = groups
        self._reading = reading or cpu_s
        self._before: dict[str, dict[int, float]] = {}
        self.restart()

    def restart(self) -> None:
        self._before = self._now()

    def read(self) -> dict[str, float]:
        return {
            name: sum(used - self._before[name].get(pid, 0.0) for pid, used in processes.items())
            for name, processes in self._now().items()
        }

    def _now(self) -> dict[str, dict[int, float]]:
        return {name: {pid: self._reading(pid) for pid in group()} for name, group in self._groups.items()}


def cpu_s(pid: int) -> float:
    """The CPU time of a process so far, with that of its child processes that have ended; 0 if it has ended itself."""
    with suppress(OSError):
        # After the name, which may contain anything: the fields 14 to 17.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) * _TICK_S
    return 0.0


def written_bytes(pid: int) -> float:
    """The bytes that a process has given to calls that write to files; 0 if it has ended."""
    with suppress(OSError):
        return float(_field(Path(f"/proc/{pid}/io").read_text(), "wchar"))
    return 0.0


def peak_mb(pid: int) -> float:
    """The greatest memory that a process has had so far, in MB; 0 if it has ended."""
    with suppress(OSError):
        return _field(Path(f"/proc/{pid}/status").read_text(), "VmHWM") / 1024
    return 0.0


def _field(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def with_children(pids: Iterable[int]) -> list[int]:
    """These processes and all that descend from them."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = list(pids)
    for pid in found:  # it grows meanwhile
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def listener(port: int) -> int:
    """The process that listens on a TCP port of this machine; 0 if it is not visible."""
    inodes: set[str] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, _, state, *_rest = line.split()[1:]
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                inodes.add(line.split()[9])
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link))
            if found and found[1] in inodes:
                return int(link.parts[2])
    return 0
