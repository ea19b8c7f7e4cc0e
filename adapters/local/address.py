"""The socket of each role: its path, and who may connect to it.

Promise: only the owner of the home can connect to a socket or replace it. Refusal: a folder that other users
can write to is not used, by neither side.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from domain.kernel.errors import PartUnavailable

_PART = "local transport"
_PATH_LIMIT_BYTES = 100  # sun_path holds 108 bytes on Linux and 104 on macOS
_BACKLOG = 512
_LINK = "sockets"


def socket_path(run: Path, role: str) -> Path:
    """The path of a role's socket: in `run`, or in a private folder elsewhere if that path is too long for a socket.

    `run` then holds a link to the folder, because XDG_RUNTIME_DIR of a caller may differ from that of the workers.
    """
    path = run / f"{role}.sock"
    if len(os.fsencode(path)) <= _PATH_LIMIT_BYTES:
        return path
    folder = _linked(run)
    if folder is None or folder.name != _short_name(run):  # a copy of a home has the link of the other one
        folder = _short_folders(run)[0]
    return folder / path.name


def _linked(run: Path) -> Path | None:
    try:
        return Path(os.readlink(run / _LINK))
    except OSError:
        return None


def _short_name(run: Path) -> str:
    """The name of the folder for the sockets of this home, wherever it is moved."""
    try:
        home = os.stat(run.parent)
    except OSError:
        return f"es-{os.getuid()}-none"  # a folder that does not exist
    return f"es-{os.getuid()}-{home.st_dev:x}-{home.st_ino:x}"


def _short_folders(run: Path) -> list[Path]:
    """The folders for the sockets of a long path, the best first."""
    import tempfile  # for a long path only: a short-lived command must not pay for it

    bases = [os.environ.get("XDG_RUNTIME_DIR") or "/tmp", tempfile.gettempdir(), "/tmp"]  # noqa: S108  # checked
    folders = [Path(base) / _short_name(run) for base in bases]
    return sorted(folders, key=lambda folder: max(len(os.fsencode(folder)), _PATH_LIMIT_BYTES - 30))


class Listening:
    """A bound socket, and its file, which callers need to find."""

    def __init__(self, run: Path, role: str) -> None:
        """Bind it. The caller must know that no living process serves the role, by a lock or by `is_served`."""
        self._run = run
        self._role = role
        self.path = socket_path(run, role)
        if self.path.parent != run:
            self.path = _linked_folder(run, self.path.parent) / self.path.name
        self.socket = listen(self.path)
        self._file = os.stat(self.path)

    @property
    def is_reachable(self) -> bool:
        """Whether callers still find the socket: its file was neither removed nor replaced."""
        if self.path.parent != self._run and socket_path(self._run, self._role) != self.path:
            return False
        return self._has_its_file()

    def close(self) -> None:
        """Close the socket and remove its file, unless that is another's by now."""
        self.socket.close()
        with suppress(OSError):
            if self._has_its_file():
                self.path.unlink()
            if self.path.parent != self._run:
                self.path.parent.rmdir()  # fails while another socket is in it
                (self._run / _LINK).unlink()

    def _has_its_file(self) -> bool:
        try:
            return os.path.samestat(self._file, os.stat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return False


def _linked_folder(run: Path, linked: Path) -> Path:
    """A private folder with a short path, to which `run` has a link; `linked` if it can be used."""
    for folder in (linked, *_short_folders(run)):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            refuse_shared(folder)
            if _linked(run) != folder:
                run.mkdir(mode=0o700, exist_ok=True)
                (run / _LINK).unlink(missing_ok=True)
                (run / _LINK).symlink_to(folder)
        except (OSError, PartUnavailable):
            continue
        return folder
    raise PartUnavailable(
        _PART,
        f"the path of {run} is too long for a socket, and no other folder can be used",
        "Choose a home with a shorter path, or a folder that this user can write to as XDG_RUNTIME_DIR.",
    )


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
        probe.setblocking(False)  # a full backlog blocks for as long as its process is suspended
        return probe.connect_ex(str(path)) in (0, errno.EAGAIN)
