"""With this folder on PYTHONPATH, the event store's clock is off by what the file `ES_TEST_CLOCK` says, in µs.

Python runs this at the start of every process, so real workers under a real supervisor get it, and the
program needs no option for it. Only the default of `SqliteStore(now_us=…)` is another one: the port's clock.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from adapters.sqlite.event_store import SqliteStore

_OFFSET = Path(os.environ["ES_TEST_CLOCK"])


def _stepped_now_us() -> int:
    return time.time_ns() // 1000 + int(_OFFSET.read_text())


defaults = SqliteStore.__init__.__kwdefaults__
assert "now_us" in defaults, "the clock of the store's port has another name now"
defaults["now_us"] = _stepped_now_us
