"""The lines of a bulk input.

Promise: a line over 64 KiB costs no memory and yields an error in its place; reading stops within 0.1 s when asked to.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

from cli import session
from domain.kernel.errors import EsError, Kind

LINE_LIMIT_BYTES = 64 * 1024
_CHUNK_BYTES = 1 << 16


class LineTooLong(EsError):
    code = "line-too-long"
    kind = Kind.INVALID
    hint = "Send one object per line. The line was skipped."

    def __str__(self) -> str:
        return f"the line is longer than {LINE_LIMIT_BYTES // 1024} KiB"


def open_input(name: str) -> BinaryIO:
    """Standard input for `-`, else a file. Raises InvalidInput."""
    if name == "-":
        return session.standard_input()
    try:
        return open(name, "rb")
    except OSError as error:
        raise session.unreadable(f"--from {name}", error) from error


def lines_of(source: BinaryIO, stopped: Callable[[], bool]) -> Iterator[tuple[int, bytes | LineTooLong]]:
    """The lines that are not blank, each with its number from 1, until the input ends or `stopped()`."""
    rest, skipping, number = b"", False, 0
    for chunk in _chunks(source, stopped):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            number += 1
            if skipping or len(line) > LINE_LIMIT_BYTES:
                yield number, LineTooLong()
            elif line.strip():
                yield number, line
            skipping = False
        if len(rest) > LINE_LIMIT_BYTES:
            rest, skipping = b"", True
    if stopped():
        return
    if skipping:
        yield number + 1, LineTooLong()
    elif rest.strip():
        yield number + 1, rest


def _chunks(source: BinaryIO, stopped: Callable[[], bool]) -> Iterator[bytes]:
    try:
        fd = source.fileno()
    except (io.UnsupportedOperation, AttributeError):
        yield source.read()
        return
    while not stopped():
        if not session.is_readable(fd):
            continue
        try:
            chunk = os.read(fd, _CHUNK_BYTES)
        except OSError as error:
            raise session.unreadable("the input", error) from error
        if not chunk:
            return
        yield chunk
