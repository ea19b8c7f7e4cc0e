"""What a run was measured on: the machine, the versions, the commit, the date, and what else the machine had to do."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import apsw

from tests.support.processes import ROOT

BUSY_PER_CORE = 0.5
_PACKAGES = ("es", "apsw", "cryptography", "pika", "psycopg", "esdbclient", "kurrentdbclient")


def described() -> dict[str, str]:
    """By name, in the order in which the documents show them."""
    cores = os.cpu_count() or 1
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": f"{_processor()}, {cores} cores, {_memory_gb():.0f} GB, {platform.system()} {platform.release()}",
        "folder": f"{tempfile.gettempdir()} on {_file_system(Path(tempfile.gettempdir()))}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "SQLite": apsw.sqlite_lib_version(),
        "packages": ", ".join(f"{name} {found}" for name in _PACKAGES if (found := _version(name))),
        "load at start": f"{os.getloadavg()[0]:.2f}",
    }


def warning() -> str:
    """What is wrong with measuring now; empty if nothing is."""
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    if load > BUSY_PER_CORE * cores:
        return (
            f"the load average is {load:.2f} on {cores} cores: these figures are not those of a quiet machine"
        )
    return ""


def commit() -> str:
    """The commit, marked if files differ from it; empty outside a repository."""
    found = _git("rev-parse", "--short=10", "HEAD")
    return f"{found} with changes" if found and _git("status", "--porcelain") else found


def _git(*arguments: str) -> str:
    try:
        ran = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip()


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _file_system(folder: Path) -> str:
    """The type of the file system of a folder. One in memory has nothing to sync."""
    mounts = {line.split()[1]: line.split()[2] for line in _text("/proc/mounts").splitlines()}
    above = [path for path in [folder, *folder.parents] if str(path) in mounts]
    return mounts[str(above[0])] if above else "an unknown file system"


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
