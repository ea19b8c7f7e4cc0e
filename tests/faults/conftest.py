"""Systems over private servers, which the tests stop, kill and overload."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.breakable import Broker
from tests.support.containers.engines import find_engine
from tests.support.containers.images import Images
from tests.support.containers.project import Project
from tests.support.postgres import Server, private_server
from tests.support.profiles import a_system
from tests.support.servers import RabbitMQ
from tests.support.system import System


@pytest.fixture
def broker(private_rabbitmq: RabbitMQ) -> Broker:
    return Broker(private_rabbitmq)


@pytest.fixture
def on_rabbitmq(
    private_rabbitmq: RabbitMQ, broker: Broker, request: pytest.FixtureRequest
) -> Iterator[System]:
    """A system over the private RabbitMQ, PostgreSQL and the test node. Nothing runs yet."""
    with a_system("distributed", request, broker=private_rabbitmq) as made:
        try:
            yield made
        finally:
            broker.start()  # also after a failure: the virtual host has to be removed


@pytest.fixture
def postgres() -> Iterator[Server]:
    with private_server() as server:
        yield server


@pytest.fixture
def on_postgres(postgres: Server, request: pytest.FixtureRequest) -> Iterator[System]:
    """A running system over a private PostgreSQL, RabbitMQ and the test node."""
    with a_system("distributed", request, database=postgres.url) as made:
        try:
            yield made.up()
        finally:
            postgres.ensure_running()


@pytest.fixture(scope="session")
def new_project(request: pytest.FixtureRequest) -> Iterator[Callable[[str], closing[Project]]]:
    """Makes projects in containers. All that they made is removed at the end, their images included.

    The run shows which images are stand-ins.
    """
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    say = terminal.write_line if terminal else print  # a process of xdist has no terminal
    cache = Path("/var/tmp/es-stand-ins")  # a Debian takes minutes to make, and memory is too small for it
    cache.mkdir(exist_ok=True)
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(dir=cache)))
        engine = find_engine(folder)
        say(f"containers: {engine.name}")
        images = ending.enter_context(closing(Images(engine, cache, say)))

        def make(name: str) -> closing[Project]:
            place = (
                folder / f"es-test-{uuid4().hex[:6]}-{name}"
            )  # podman-compose takes the name of the folder
            place.mkdir()
            return closing(Project(engine, images, place))

        yield make
