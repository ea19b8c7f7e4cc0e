"""Tells a follower that the write-ahead log of an SQLite file was written.

On Linux the kernel tells it (inotify), also for processes that know nothing of the follower. Elsewhere, and if the user has
no watch left, the time of the log is looked at every few milliseconds.

Promise: a write is told at most `LATEST_S` late. Refusal: it does not tell whether the write is a commit that can be read: a
commit becomes visible some time after it was written to the log, once it is on the disk.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inotify_simple import INotify  # type: ignore[import-untyped]

FIRST_S = 0.0005
LATEST_S = 0.01
"""The shortest and the longest pause between two looks: it grows while nothing is found."""
_GROWTH = 1.2
_BUSY_S = 0.002
"""The longest pause while the log is being written."""
_VISIBLE_S = 0.2
"""How long a commit may take from the log to the disk."""


class News:
    """Of one log. For one thread."""

    def __init__(self, log: str) -> None:
        self._log = log
        self._watch = _watch()
        self._pause_s = FIRST_S
        self._written_s = float("-inf")
        self.renew()  # before the first look at the head: no write after it is missed

    def renew(self) -> None:
        """Watch the file that has the log's name by now, if it was replaced. If not, this costs next to nothing."""
        if self._watch is None:
            return
        from inotify_simple import flags

        try:
            self._watch.add_watch(self._log, flags.MODIFY)
        except FileNotFoundError:
            pass  # a look at the head, which comes soon in any case, tells what is wrong
        except OSError:  # no watch is left for this user
            self._watch.close()
            self._watch = None

    def wait(self, limit_s: float) -> bool:
        """Pause, for `limit_s` at most. Tells whether a commit may become visible: the log was written a moment ago."""
        was_written = self._was_just_written()
        if self._is_written(min(self._pause_s, limit_s) if was_written else limit_s):
            self._written_s = time.monotonic()
        if was_written:
            self._pause_s = min(self._pause_s * _GROWTH, LATEST_S)
        return self._was_just_written()

    def found(self) -> None:
        """The head has moved, and may soon move again."""
        self._pause_s = FIRST_S

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def _was_just_written(self) -> bool:
        return time.monotonic() - self._written_s < _VISIBLE_S

    def _is_written(self, limit_s: float) -> bool:
        """Pause, and tell whether the log was written meanwhile, or just before."""
        if self._watch is not None:
            if not self._watch.read(timeout=limit_s * 1000):
                return False
            time.sleep(min(self._pause_s, _BUSY_S))  # a commit is many writes, and then waits for the disk
            return True
        time.sleep(min(self._pause_s, limit_s))
        self._pause_s = min(self._pause_s * _GROWTH, LATEST_S)
        try:
            return abs(time.time() - os.stat(self._log).st_mtime) < _VISIBLE_S
        except FileNotFoundError:
            return True  # a look at the head tells what is wrong


def _watch() -> INotify | None:
    """None if the kernel watches no files, or not for one more follower of this user."""
    if sys.platform != "linux":
        return None
    from inotify_simple import INotify

    try:
        return INotify(nonblocking=True)
    except OSError:
        return None
