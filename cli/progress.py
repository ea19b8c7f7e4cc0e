"""Progress on standard error: one moving line on a terminal, else a plain line every 5 s."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from cli import session

_MOVING_INTERVAL_S = 0.1
_PLAIN_INTERVAL_S = 5.0


class Progress:
    """Shows how far a command is, and at its end a summary."""

    def __init__(self, *, answers_meanwhile: bool = False) -> None:
        """`answers_meanwhile` says that answers are printed during the work: on one terminal they would mix."""
        answers_on_terminal = answers_meanwhile and sys.stdout.isatty()
        self._is_moving = sys.stderr.isatty() and not answers_on_terminal
        self._started_s = self._shown_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start, never zero."""
        return max(time.monotonic() - self._started_s, 1e-9)

    def show(self, text: Callable[[], str]) -> None:
        """Show `text()` if the last text was shown long enough ago."""
        now_s = time.monotonic()
        if now_s - self._shown_s < (_MOVING_INTERVAL_S if self._is_moving else _PLAIN_INTERVAL_S):
            return
        self._shown_s = now_s
        if self._is_moving:
            print(f"\r\x1b[K{text()}", end="", file=sys.stderr, flush=True)
        else:
            session.note(text())

    def close(self, summary: str) -> None:
        """Replace the moving line by a summary."""
        if self._is_moving:
            print("\r\x1b[K", end="", file=sys.stderr)
        session.note(summary)
