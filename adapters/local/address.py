"""The socket of each role: its path, and who may connect to it.

Promise: only the owner of the home can connect to a socket or replace it. Refusal: a folder that other users
can write to is not used, by neither side.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from domain.kernel.errors import PartUnavailable

_PART = "local transport"
_PATH_LIMIT_BYTES = 100  # sun_path holds 108 bytes on Linux and 104 on macOS
_BACKLOG = 512


def socket_path(run: Path, role: str) -> Path:
    """The path of a role's socket: in `run`, or in a private folder named by its hash if `run` is too long."""
    path = run / f"{role}.sock"
    if len(os.fsencode(path)) <= _PATH_LIMIT_BYTES:
        return path
    import hashlib  # both for a long path only: a short-lived command must not pay for them
    import tempfile

    name = f"es-{os.getuid()}-{hashlib.sha256(os.fsencode(os.path.realpath(run))).hexdigest()[:20]}"
    bases = [os.environ.get("XDG_RUNTIME_DIR") or "/tmp", tempfile.gettempdir(), "/tmp"]  # noqa: S108  # checked
    paths = [Path(base) / name / path.name for base in bases]
    return min(paths, key=lambda path: max(len(os.fsencode(path)), _PATH_LIMIT_BYTES))


def refuse_shared(folder: Path) -> None:
    """Raise PartUnavailable if other users can write to the folder: they could put their own socket there."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PartUnavailable(
            _PART, f"{folder} is not a private folder of this user", "Remove it, then retry."
        )


def listen(path: Path) -> socket.socket:
    """Bind a socket that only its owner can connect to. The file of a dead process is replaced.

    The caller must know that no living process serves the path, by a lock or by `is_served`.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o077)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_shared(path.parent)
        path.unlink(missing_ok=True)
        os.umask(0o177)
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise PartUnavailable(
            _PART, f"{path}: {error.strerror}", "Make the folder writable for this user."
        ) from error
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener


def is_served(path: Path) -> bool:
    """Whether a living process listens on the path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0
