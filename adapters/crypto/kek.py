"""The key-encryption key: 32 random bytes as 64 hex digits, in a file that only its owner can read.

The file and the vault together open all personal data. Without the file none of it can ever be opened. A second line,
`system UUID`, names the system that the key belongs to. A file without it belongs to any system.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from uuid import UUID

from domain.kernel.errors import KeyUnavailable, PartUnavailable

_BYTES = 32
_SYSTEM = "system"


def load_kek(path: Path, *, system: UUID | None = None) -> bytes:
    """The key in `path`. Raises KeyUnavailable if it is missing, unreadable, or of another system than the given one."""
    key, owner = read_kek(path)
    if owner is not None and system is not None and owner != system:
        raise KeyUnavailable(
            f"the key-encryption key {path} belongs to system {owner}, and the event store to system {system}",
            "Correct ES_KEK_FILE or ES_STORE (`es config show`). If they belong together, run `es adopt`.",
        )
    return key


def read_kek(path: Path) -> tuple[bytes, UUID | None]:
    """The key in `path`, and the system that the file names. Raises KeyUnavailable."""
    try:
        first, _, rest = path.read_text("ascii").strip().partition("\n")
        key, owner = bytes.fromhex(first), _owner(rest)
    except FileNotFoundError as error:
        command = f"(umask 077; mkdir -p {quote(str(path.parent))}; set -C; openssl rand -hex 32 > {quote(str(path))})"
        raise KeyUnavailable(
            f"the key-encryption key {path} is missing",
            f"Restore it; nothing was changed. Only for a vault that never had a key, create one: `{command}`.",
        ) from error
    except (OSError, ValueError) as error:
        raise KeyUnavailable(f"the key-encryption key {path} cannot be read") from error
    if len(key) != _BYTES:
        raise KeyUnavailable(f"{path} does not hold 64 hexadecimal digits")
    return key, owner


def _owner(line: str) -> UUID | None:
    """The system in the second line. Raises ValueError for anything else than a system."""
    if not line.strip():
        return None
    word, _, owner = line.strip().partition(" ")
    if word != _SYSTEM:
        raise ValueError("not a system")
    return UUID(owner)


def make_kek(path: Path, *, system: UUID | None = None) -> None:
    """Create a key of a system in `path` if none exists. Of several processes that do so at once, one succeeds.

    Raises PartUnavailable if it cannot be stored.
    """
    if path.exists():
        return
    with _storing(path):
        _write(path, secrets.token_bytes(_BYTES), system, replaces=False)


def give_kek(path: Path, system: UUID) -> None:
    """Write the system of a key into its file. A crash leaves the old file or the new one, with the same key.

    Raises KeyUnavailable or PartUnavailable.
    """
    key, owner = read_kek(path)
    if owner != system:
        with _storing(path):
            _write(path, key, system, replaces=True)


@contextlib.contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PartUnavailable(
            "vault",
            f"the key-encryption key {path} cannot be created: {error.strerror}",
            "Make its folder writable, or free disk space, then retry.",
        ) from error


def _write(path: Path, key: bytes, system: UUID | None, *, replaces: bool) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(key.hex() + "\n" + (f"{_SYSTEM} {system}\n" if system else ""))
            file.flush()
            os.fsync(file.fileno())
        if replaces:
            draft.replace(path)
        else:
            # Link, do not rename: a rename would replace the key of another process.
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
