"""The key-encryption key: 32 random bytes as 64 hex digits in one file, readable by its owner alone.

Whoever has this file and the vault can read everybody's data; whoever loses it can read nobody's.
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
    """The key in `path`. Raises KeyUnavailable when it isn't there or isn't one."""
    try:
        text = path.read_text("ascii").strip()
        key = bytes.fromhex(text)
    except FileNotFoundError as error:
        making = f"(umask 077; mkdir -p {quote(str(path.parent))}; set -C; openssl rand -hex 32 > {quote(str(path))})"
        raise KeyUnavailable(
            f"the key-encryption key {path} is not there",
            f"Bring it back; nothing was changed. Only for a vault that never had a key, make one: `{making}`.",
        ) from error
    except (OSError, ValueError) as error:
        raise KeyUnavailable(f"the key-encryption key {path} cannot be read") from error
    if len(key) != _BYTES:
        raise KeyUnavailable(f"{path} does not hold 64 hexadecimal digits")
    return key


def make_kek(path: Path) -> None:
    """Make a key in `path` unless there is one. Of several processes that try at once, one makes it.

    Raises PartUnavailable when it can't be stored.
    """
    if path.exists():
        return
    try:
        _make(path)
    except OSError as error:
        raise PartUnavailable(
            "vault",
            f"the key-encryption key {path} cannot be made: {error.strerror}",
            "Make its folder writable, or free disk space, then repeat.",
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
        # A link appears whole and only if the name is free; a rename would replace a rival's key.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
