"""The command line. It sends requests to workers through a transport and never opens a store itself.

The process is prepared here, before it opens or prints anything. Promise: descriptors 0 to 2 are standard streams, never
a socket or a file. Text is UTF-8 in every locale. A failure of standard output is raised as `OutputFailed`, and
standard error never fails. Modules on PYTHONPATH never take the place of Python's or of ours.
"""

import errno
import io
import os
import sys
from types import TracebackType
from typing import Any


def _show_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line for a Ctrl-C during the imports, before the root command can handle it.

    The interpreter then ends by the signal, so a shell sees 130 and stops its loop.
    """
    if issubclass(kind, KeyboardInterrupt):
        print("es: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


class OutputFailed(Exception):
    """Standard output took no more text. It is no `OSError`: libraries would handle it in their own way."""

    def __init__(self, cause: OSError) -> None:
        self.reason = cause.strerror or "it failed"
        self.is_closed_pipe = isinstance(cause, BrokenPipeError)
        """Whether the program that read the output has ended, which is no failure of the command."""


class _Output(io.FileIO):
    """Standard output. After a failure the rest is dropped: the interpreter would fail again at its exit."""

    was_closed = False
    has_failed = False

    def write(self, data: Any) -> int:
        if self.has_failed:
            return len(data)
        try:
            if self.was_closed:
                raise OSError(errno.EBADF, "it is closed")
            return super().write(data)
        except OSError as error:
            self.has_failed = True
            raise OutputFailed(error) from error


class _Remarks(io.FileIO):
    """Standard error. There is no place to report its failure."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _open_standard_streams() -> None:
    """Replace the streams of this process. A stream that a test has replaced stays."""
    was_closed = [stream is None for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__)]
    for _ in filter(None, was_closed):  # each open takes the lowest free descriptor
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is sys.__stdout__:
        output = _Output(1, "wb", closefd=False)
        output.was_closed = was_closed[1]
        sys.stdout = _text(output)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Remarks(2, "wb", closefd=False))
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")


def _text(raw: io.FileIO) -> io.TextIOWrapper:
    # A lone surrogate, from a file name that is no UTF-8, is shown as \udc80: in JSON the same text.
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )


def _look_on_pythonpath_last() -> None:
    """Search PYTHONPATH after the installed modules. For the workers put our own folder in front of it."""
    given = os.environ.get("PYTHONPATH")
    if not given:
        return
    folders = {os.path.abspath(folder) for folder in given.split(os.pathsep)}
    sys.path.sort(key=lambda folder: folder in folders)
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not given.startswith(own + os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join((own, given))


sys.excepthook = _show_uncaught
_look_on_pythonpath_last()
_open_standard_streams()
