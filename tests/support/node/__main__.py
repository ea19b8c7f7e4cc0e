"""Run a test node as a process: `python -m tests.support.node`. It prints its URL, and SIGTERM or SIGINT ends it.

Without options it behaves as EventStoreDB 23.10 does. In a cluster SIGUSR1 kills the leader: another one is elected.
"""

from __future__ import annotations

import argparse
import signal
import threading
from contextlib import ExitStack, closing

from tests.support.node import Cluster, Front, Node
from tests.support.node.cluster import ELECTION_S
from tests.support.node.server import EXAMINE_S, FLUSH_S, LIVE_BUFFER


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.support.node")
    add = parser.add_argument
    add("--cluster", type=int, default=0, metavar="N", help="run N nodes over one log")
    add("--election-s", type=float, default=ELECTION_S, help="how long a cluster has no leader")
    add("--info", action="store_true", help="answer GET /info on the same port (slower)")
    add("--no-caught-up", action="store_true", help="as servers before 23.10")
    add("--falls-behind", action="store_true", help="as servers from 24.2 on: a slow client is not ended")
    add("--live-buffer", type=int, default=LIVE_BUFFER, help="messages kept for a slow client")
    add("--flush-ms", type=float, default=FLUSH_S * 1000, help="how long a write to the disk takes")
    add("--examine-us", type=float, default=EXAMINE_S * 1e6, help="for a record that a filter leaves out")
    return parser


def _configure(node: Node, options: argparse.Namespace) -> None:
    node.says_caught_up = not options.no_caught_up
    node.falls_behind = options.falls_behind
    node.live_buffer = options.live_buffer
    node.flush_s = options.flush_ms / 1000
    node.examine_s = options.examine_us / 1e6


def main() -> None:
    options = _parser().parse_args()
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    with ExitStack() as stack:
        if options.cluster:
            cluster = stack.enter_context(closing(Cluster(options.cluster, election_s=options.election_s)))
            signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=cluster.fail_over).start())
            nodes, url = cluster.nodes, cluster.url
        else:
            node = stack.enter_context(closing(Node()))
            nodes, url = [node], node.url
            if options.info:
                url = stack.enter_context(closing(Front(node.port))).url
        for node in nodes:
            _configure(node, options)
        print(url, flush=True)
        ending.wait()


if __name__ == "__main__":
    main()
