"""A test node for each test, and stores that are closed before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.support.eventstoredb import OpenStore, Store
from tests.support.node import Cluster, Node, Proxy
from tests.support.waiting import DEADLINE_S


@pytest.fixture
def node() -> Iterator[Node]:
    with closing(Node()) as node:
        yield node


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with closing(Cluster()) as cluster:
        yield cluster


@pytest.fixture
def proxy(node: Node) -> Iterator[Proxy]:
    """In front of the node."""
    with closing(Proxy(node.port)) as proxy:
        yield proxy


@pytest.fixture
def open_store(node: Node) -> Iterator[OpenStore]:
    """Request it after a cluster or proxy: gRPC hangs if a server is closed before its clients."""
    with ExitStack() as stores:

        def open_store(url: str = "", **timeouts: float) -> Store:
            timeouts = {"call_timeout_s": DEADLINE_S, "settle_s": DEADLINE_S, **timeouts}
            return stores.enter_context(closing(Store(url or node.url, **timeouts)))

        yield open_store


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()
