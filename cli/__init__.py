"""The command line. It sends requests to workers through a transport and never opens a store itself."""

import sys
from types import TracebackType


def _show_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line for a Ctrl-C during the imports, before the root command can handle it.

    The interpreter then ends by the signal, so a shell sees 130 and stops its loop.
    """
    if issubclass(kind, KeyboardInterrupt):
        print("es: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _show_uncaught
