"""Run a test node as a process: `python -m tests.support.node`. It prints its URL, and SIGTERM or SIGINT ends it."""

from __future__ import annotations

import signal
import threading
from contextlib import closing

from tests.support.node import Node

if __name__ == "__main__":
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    with closing(Node()) as node:
        print(node.url, flush=True)
        ending.wait()
