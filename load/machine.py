"""What a run was measured on: the machine, the versions, and the parts of the system by name."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from adapters.settings import Settings

_PACKAGES = ("es", "apsw", "pika", "psycopg", "hdrhistogram")
_NAMES = {"postgres": "postgresql", "amqps": "rabbitmq", "amqp": "rabbitmq", "local": "local sockets"}


def machine() -> dict[str, Any]:
    """The machine of this process, and how busy it was at the start."""
    return {
        "host": platform.node(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def profile(settings: Settings) -> dict[str, str]:
    """What each part is, without its URL, which may hold a password."""
    parts = ("broker", "store", "database", "vault")
    return {part: _named(getattr(settings, part)) for part in parts}


def _named(url: str) -> str:
    scheme, separator, _ = url.partition(":")
    if not separator:
        return "sqlite"
    scheme = scheme.partition("+")[0]
    return _NAMES.get(scheme, scheme)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, "") or platform.processor() or platform.machine()
