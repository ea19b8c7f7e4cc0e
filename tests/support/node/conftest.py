"""A node, and a client of it as another program uses one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from adapters.eventstoredb.driver import EventStoreDBClient
from tests.support.node import Node


@pytest.fixture
def node() -> Iterator[Node]:
    with closing(Node()) as node:
        yield node


@pytest.fixture
def client(node: Node) -> Iterator[EventStoreDBClient]:
    with closing(EventStoreDBClient(node.url)) as client:
        yield client
