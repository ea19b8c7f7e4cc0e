"""How the contract suite gets an EventStoreDB when none is named by `--store-url`: a fresh test node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.node import Node


@contextmanager
def running_node() -> Iterator[str]:
    """The URL of a test node that nobody has written to and that other processes can reach too."""
    node = Node()
    try:
        yield node.url
    finally:
        node.stop()
