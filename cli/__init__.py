"""The command line: asks workers through a transport, never opens a store itself."""

import sys
from types import TracebackType


def _show_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A Ctrl-C before the root command has begun (imports take a while) is no failure: one line, no traceback.

    The interpreter then ends by the signal, so a shell sees 130 and stops its loop.
    """
    if issubclass(kind, KeyboardInterrupt):
        print("es: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _show_uncaught
