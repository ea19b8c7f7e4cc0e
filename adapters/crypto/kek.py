"""The key-encryption key: 32 random bytes as 64 hex digits, in a file that only its owner can read.

The file and the vault together open all personal data. Without the file none of it can ever be opened.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from shlex import quote

from domain.kernel.errors import KeyUnavailable, PartUnavailable

_BYTES = 32


def load_kek(path: Path) -> bytes:
    """The key in `path`. Raises KeyUnavailable if it is missing or unreadable."""
    try:
        text = path.read_text("ascii").strip()
        key = bytes.fromhex(text)
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
    return key


def make_kek(path: Path) -> None:
    """Create a key in `path` if none exists. Of several processes that do so at once, one succeeds.

    Raises PartUnavailable if it cannot be stored.
    """
    if path.exists():
        return
    try:
        _make(path)
    except OSError as error:
        raise PartUnavailable(
            "vault",
            f"the key-encryption key {path} cannot be created: {error.strerror}",
            "Make its folder writable, or free disk space, then retry.",
        ) from error


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_hex(_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # Link, do not rename: a rename would replace the key of another process.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
