"""Servers' parts for one system alone: a virtual host, an EventStoreDB node. Each is removed after use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from importlib import import_module
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from domain.features import registry
from tests.support.processes import ROOT
from tests.support.servers import Guarded, RabbitMQ


class Vhosts:
    """The virtual hosts of a test session. Creating one takes seconds, so each is used again."""

    def __init__(self, server: RabbitMQ, ending: ExitStack) -> None:
        self._server = server
        self._ending = ending
        self._free = [server]

    @contextmanager
    def one(self) -> Iterator[RabbitMQ]:
        """A virtual host without queues. Its workers must have ended before the block does."""
        from adapters.rabbitmq.messages import SYSTEM, dead_queue_of, queue_of

        chosen = self._free.pop() if self._free else self._ending.enter_context(own_vhost(self._server))
        yield chosen
        chosen.delete_queues(
            SYSTEM,
            *(queue for role in registry().role_names for queue in (queue_of(role), dead_queue_of(role))),
        )
        self._free.append(chosen)


@pytest.fixture(scope="session")
def vhosts(rabbitmq: RabbitMQ) -> Iterator[Vhosts]:
    with ExitStack() as ending:
        yield Vhosts(rabbitmq, ending)


@contextmanager
def own_vhost(server: RabbitMQ) -> Iterator[RabbitMQ]:
    """A new virtual host of a server. It is removed even if the test session is killed."""
    name = f"es-test-{uuid4().hex[:12]}"
    removal = [*server.control, "--quiet", "delete_vhost", name]
    with closing(Guarded(afterwards=[removal], environment=server.environment)):
        server.ctl("add_vhost", name)
        user = urlsplit(server.url).username or "guest"
        server.ctl("set_permissions", "-p", name, user, ".*", ".*", ".*")
        yield replace(server, url=urlsplit(server.url)._replace(path=f"/{name}").geturl(), vhost=name)


@contextmanager
def own_node() -> Iterator[str]:
    """The URL of an EventStoreDB test node in another process, because this one is often too busy to answer."""
    import_module("grpc")  # skips the test if it is missing; the other process would only fail
    node = subprocess.Popen([sys.executable, "-m", "tests.support.node"], stdout=subprocess.PIPE, cwd=ROOT)
    assert node.stdout is not None
    try:
        with node.stdout:
            url = node.stdout.readline().decode().strip()
        assert url.startswith("esdb://"), f"the test node printed {url!r}"
        yield url
    finally:
        node.kill()
        node.wait()
