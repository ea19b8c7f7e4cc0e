"""Run a test node as a process of its own: `python -m tests.support.node --port 2113`. Ends on SIGTERM or SIGINT.

Its first line on standard output is its URL, once it listens.
"""

from __future__ import annotations

import argparse
import signal
import threading

from tests.support.node import Fault, Node, seeded


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.node", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--faults", type=float, default=0.0, help="probability of a fault around each commit")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    arguments = parser.parse_args()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    node = Node(port=arguments.port)
    if arguments.faults:
        node.plan = seeded(arguments.seed, arguments.faults, leave_out=[Fault.BLACK_HOLE, Fault.LATE])
    print(node.url, flush=True)
    stopping.wait()
    node.stop()


if __name__ == "__main__":
    main()
