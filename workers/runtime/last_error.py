"""The last error of work in the background. A command that waits for the work shows it."""

from __future__ import annotations

from collections.abc import Callable

from domain.kernel.errors import EsError
from domain.kernel.ids import time_text
from domain.kernel.messages import Body


class LastError:
    """An error with its time, from when it happened until the work makes progress."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self.body: Body | None = None
        """`{"code", "kind", "message", "hint", "at"}`"""

    def happened(self, error: EsError) -> None:
        self.body = {**error.to_wire(), "at": time_text(self._now_us())}

    def ended(self) -> None:
        self.body = None
