"""Systems over different parts, by profile.

`embedded` needs no server, `rabbitmq` is RabbitMQ with SQLite, `distributed` is RabbitMQ with PostgreSQL and the
EventStoreDB test node. `--profile` chooses one, or `all`, as `make soak` does. Without it every acceptance test that uses a
system runs over `embedded` and `distributed`. Three marks exempt a test, and each must give a reason:

    @pytest.mark.over("embedded", because="it reads the vault's file")
    @pytest.mark.usually_over("embedded", because="it is about the command line")  # over others with --profile only
    @pytest.mark.own_store("a fence stops the ids of the whole store")

Each system has a virtual host, a schema and a node of its own. With `--store-url URL` systems use that store instead,
which holds events of other tests and earlier runs. The keys of its users lie in vaults that are gone. A system ignores
what was stored before it (`System.baseline`), and only one is up at a time, because every `erasures` worker of a store
carries out all of its erasures.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from adapters.wiring import open_vault, prepare_home
from tests.support.own_parts import own_node, own_vhost
from tests.support.postgres import own_schema
from tests.support.servers import RabbitMQ
from tests.support.system import System, new_root

PROFILES = ("embedded", "rabbitmq", "distributed")


@dataclass(frozen=True)
class Profile:
    """The parts of a system, and the store that --store-url names instead of the profile's own."""

    name: str
    store: str | None = None

    @property
    def id(self) -> str:
        return self.name if self.store is None else f"{self.name}-{urlsplit(self.store).scheme}"


def profiles_of(metafunc: pytest.Metafunc) -> list[Any]:
    """The profiles of one test, as parameters for pytest."""
    chosen = metafunc.config.getoption("--profile")
    stores = metafunc.config.getoption("--store-url") or [None]
    return [
        pytest.param(profile, id=profile.id, marks=marks)
        for name in _names(metafunc.definition, chosen, has_store=stores != [None])
        for profile in (Profile(name, store) for store in stores)
        if (marks := _exemptions(metafunc.definition, profile)) == [] or chosen or profile.store
    ]


def _names(test: pytest.Item, chosen: str | None, *, has_store: bool) -> Sequence[str]:
    if chosen is not None:
        return PROFILES if chosen == "all" else [chosen]
    if has_store:
        return ["embedded"]  # apart from the store, which is named
    # Each part of `rabbitmq` is in another profile as well, and a run of all tests must stay short.
    usual = test.get_closest_marker("usually_over")
    return [name for name in (usual.args if usual else PROFILES) if name != "rabbitmq"]


def _exemptions(test: pytest.Item, profile: Profile) -> list[pytest.MarkDecorator]:
    """The mark that skips a test over a profile, with the test's own reason; empty if it runs."""
    reasons = [
        f"{' or '.join(mark.args)} only: {mark.kwargs['because']}"
        for mark in test.iter_markers("over")
        if profile.name not in mark.args
    ]
    if profile.store is not None:
        reasons += [f"needs a store of its own: {mark.args[0]}" for mark in test.iter_markers("own_store")]
        if hasattr(test.config, "workerinput"):
            reasons.append("one system at a time is up over a named store: run pytest without -n")
    if profile.store == "memory:":
        reasons.append("the store in memory ends with its process")
    return [pytest.mark.skip(reason=reason) for reason in reasons[:1]]


@contextmanager
def a_system(
    profile: Profile | str,
    request: pytest.FixtureRequest,
    *,
    broker: RabbitMQ | None = None,
    database: str | None = None,
) -> Iterator[System]:
    """A system over parts of its own. `broker` and `database` replace the usual servers."""
    profile = Profile(profile) if isinstance(profile, str) else profile
    with ExitStack() as ending:
        root = new_root()
        ending.callback(shutil.rmtree, root, ignore_errors=True)
        parts = {}
        if profile.name != "embedded":
            vhost = own_vhost(broker) if broker else request.getfixturevalue("vhosts").one()
            parts["ES_BROKER"] = ending.enter_context(vhost).url
        if profile.name == "distributed":
            server = database or request.getfixturevalue("postgres_database")
            schema = ending.enter_context(own_schema(server))
            kek = root / "kek"
            kek.touch(0o600)
            kek.write_text(os.urandom(32).hex())
            parts |= {"ES_DATABASE": schema, "ES_VAULT": schema, "ES_KEK_FILE": str(kek)}
            if profile.store is None:
                parts["ES_STORE"] = ending.enter_context(own_node())
        made = System(root, parts=parts)
        ending.callback(made.close)
        if profile.store is not None:
            ending.enter_context(_on_a_named_store(made, profile.store))
        yield made


_NAMED: list[System] = []
"""The systems over named stores, the newest last. Only that one may be up."""


@contextmanager
def _on_a_named_store(system: System, store: str) -> Iterator[None]:
    """Let a system use a store with older events, while no other system over a named store is up."""
    # Create the vault beside an empty store: beside users whose keys it does not hold, `es` refuses to create one.
    prepare_home(system.settings)
    open_vault(replace(system.settings, store=f"sqlite:{system.root / 'none.db'}")).close()
    system.environment["ES_STORE"] = store
    resting = [other for other in _NAMED if other.processes()]
    for other in resting:
        other.es("down").ok()
    _NAMED.append(system)
    try:
        system.take_baseline()
        yield
    finally:
        _NAMED.remove(system)
        system.es("down")
        for other in resting:
            other.take_baseline()
            other.up()


@pytest.fixture(scope="module")
def profile(request: pytest.FixtureRequest) -> Profile:
    """The parts of the systems. Acceptance tests run over several; elsewhere --profile names another than embedded."""
    chosen = request.config.getoption("--profile")
    return getattr(request, "param", None) or Profile(chosen if chosen in PROFILES else "embedded")


@pytest.fixture
def system(profile: Profile, request: pytest.FixtureRequest) -> Iterator[System]:
    """A system for this test alone. Nothing runs yet."""
    with a_system(profile, request) as made:
        yield made


@pytest.fixture
def running(system: System) -> System:
    """A system for this test alone. Its workers are ready."""
    return system.up()


@pytest.fixture(scope="module")
def shared(profile: Profile, request: pytest.FixtureRequest) -> Iterator[System]:
    """A running system for all tests of a module. Each test uses names of its own."""
    with a_system(profile, request) as made:
        yield made.up()


@pytest.fixture
def systems(profile: Profile, request: pytest.FixtureRequest) -> Iterator[Callable[[], System]]:
    """Makes any number of systems."""
    with ExitStack() as ending:
        yield lambda: ending.enter_context(a_system(profile, request))
