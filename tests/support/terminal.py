"""`es` on a pseudo-terminal of a given width, and what a user types there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Mapping
from contextlib import suppress

from tests.support.runs import ES, Ran
from tests.support.system import System
from tests.support.waiting import DEADLINE_S

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def plain(text: str) -> str:
    """What a terminal shows of an output."""
    return _ESCAPES.sub("", text).replace("\r\n", "\n")


def on_terminal(
    system: System,
    *arguments: str,
    columns: int = 80,
    typed: bytes | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ran:
    """Run a command on a terminal; `typed` is entered once a question is shown. Both outputs are `out`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [ES, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that a typed Ctrl-C is a signal
        env={**system.environment, "NO_COLOR": "", "TERM": "xterm", **(environment or {})},
    )
    os.close(theirs)
    try:
        shown = b""
        if typed is not None:
            shown = _read_until(ours, b"[y/N]")
            os.write(ours, typed)
        shown += _read_until(ours, None)
        return Ran(arguments, process.wait(DEADLINE_S), shown, b"").without_traceback()
    finally:
        process.kill()
        os.close(ours)


def _read_until(terminal: int, wanted: bytes | None) -> bytes:
    shown, arrived = b"", select.poll()  # not select(), which knows descriptors below 1024 only
    arrived.register(terminal, select.POLLIN)
    with suppress(OSError):  # the other end of the pseudo-terminal is closed
        while wanted is None or wanted not in shown:
            assert arrived.poll(DEADLINE_S * 1000), f"nothing more came after {shown!r}"
            if not (more := os.read(terminal, 4096)):
                break
            shown += more
    return shown
