"""A cluster of test nodes: one log, as if it were replicated, gossip, and a leader that changes."""

from __future__ import annotations

import random
import threading

from tests.support.node.log import Log
from tests.support.node.server import Node
from tests.support.proxy import HOST

ELECTION_S = 0.9
"""A new leader took 0.9 to 2 s."""


class Cluster:
    """A test sets `leader`, or starts an election with `elect`. Meanwhile no node accepts reads or appends.

    An append that is in flight when its leader is lost is stored or not, by chance. Equal seeds, equal chances.
    """

    def __init__(self, size: int = 3, *, election_s: float = ELECTION_S, seed: int = 0) -> None:
        self.log = Log()
        self.election_s = election_s
        self.elections = 0
        self.leading: Node | None = None
        """The leader, or None during an election."""
        self.nodes = [Node(log=self.log, cluster=self) for _ in range(size)]
        self.leading = self.nodes[0]
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._timers: list[threading.Timer] = []

    @property
    def url(self) -> str:
        return f"esdb://{','.join(f'{HOST}:{node.port}' for node in self.nodes)}?tls=false"

    @property
    def leader(self) -> Node:
        assert self.leading is not None, "an election is under way"
        return self.leading

    @leader.setter
    def leader(self, node: Node) -> None:
        self.leading = node

    def elect(self, node: Node, *, dies: bool = False) -> threading.Timer:
        """The leader steps down at once, or dies, and `node` leads after `election_s`: join the timer to wait for it.

        A dead node ends all calls and accepts none, until `node.revive()`.
        """
        with self._lock:
            self.elections += 1
            lost, self.leading = self.leading, None
            if dies and lost is not None:
                lost.die()
            timer = threading.Timer(self.election_s, self._lead, [node])
            self._timers.append(timer)
            timer.start()
        self.log.notify()
        return timer

    def fail_over(self) -> threading.Timer:
        """The leader dies, another node is elected, and all nodes that had died before come back."""
        for node in self.nodes:
            node.revive()
        number = self.nodes.index(self.leading) if self.leading else 0
        return self.elect(self.nodes[(number + 1) % len(self.nodes)], dies=True)

    def is_stored_by_chance(self) -> bool:
        return self._chance.random() < 0.5

    def _lead(self, node: Node) -> None:
        self.leading = node

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        for node in self.nodes:
            node.close()
