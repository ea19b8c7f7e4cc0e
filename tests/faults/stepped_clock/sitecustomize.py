"""Shift the event store's clock by the microseconds in the file `ES_TEST_CLOCK`, if this folder is on PYTHONPATH.

Python imports this module at the start of every process, workers under a supervisor included, so the program
needs no option for it. Only the default of `SqliteStore(now_us=…)` is replaced.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from adapters.clock import now_us
from adapters.sqlite.event_store import SqliteStore

_OFFSET = Path(os.environ["ES_TEST_CLOCK"])
_DEFAULTS: Any = SqliteStore.__init__.__kwdefaults__

assert "now_us" in _DEFAULTS, "the clock of SqliteStore has another name"
_DEFAULTS["now_us"] = lambda: now_us() + int(_OFFSET.read_text())
