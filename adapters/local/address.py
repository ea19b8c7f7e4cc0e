"""Requests over Unix sockets, one per role: the embedded transport.

A frame is its length in 4 bytes, big-endian, then a JSON object: `{"id", "kind", "body"}` one way,
`{"id", "ok"}` or `{"id", "error": {"code", "kind", "message", "hint"}}` the other. Frames are pipelined;
an id belongs to its connection. Several workers of a role accept from one listening socket.

Promise: a caller gets the answer of the connection it asked on, or asks again. Refusal: nothing outside
the standard library is imported here, because every short-lived command pays for it.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from domain.kernel.errors import PartUnavailable

_PATH_LIMIT_BYTES = 100  # sun_path holds 108 bytes on Linux and 104 on macOS
_BACKLOG = 512


def socket_path(run: Path, role: str) -> Path:
    """The socket of a role. In `run`, or, if that is too long for a socket, in a private folder named by its hash."""
    path = run / f"{role}.sock"
    if len(os.fsencode(path)) <= _PATH_LIMIT_BYTES:
        return path
    import hashlib  # both only for such a home
    import tempfile

    name = f"es-{os.getuid()}-{hashlib.sha256(os.fsencode(os.path.realpath(run))).hexdigest()[:20]}"
    bases = [os.environ.get("XDG_RUNTIME_DIR") or "/tmp", tempfile.gettempdir(), "/tmp"]  # noqa: S108  # checked
    paths = [Path(base) / name / path.name for base in bases]
    return min(paths, key=lambda path: max(len(os.fsencode(path)), _PATH_LIMIT_BYTES))


def refuse_shared(folder: Path) -> None:
    """Others who can write to the folder could put their own socket there. Raises PartUnavailable."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PartUnavailable(
            "local transport", f"{folder} is not a private folder of this user", "Remove it, then repeat."
        )


def listen(path: Path) -> socket.socket:
    """Bind a socket that only its owner can connect to. A file left behind by a dead process is replaced.

    The caller must know that no living process serves the path, by a lock or by `is_served`.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o077)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_shared(path.parent)
        path.unlink(missing_ok=True)
        os.umask(0o177)
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise PartUnavailable(
            "local transport", f"{path}: {error.strerror}", "Make the folder writable for this user."
        ) from error
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def is_served(path: Path) -> bool:
    """Whether a living process listens on the path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0
