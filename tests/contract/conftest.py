"""The parts under contract, opened as a worker opens them: by URL, through `adapters.wiring`.

Another adapter joins its suite with one line in a list below. A URL without a path gets a fresh place per
test; everything that a contract test needs to know of an adapter is its URL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from adapters import wiring
from adapters.crypto.kek import make_kek
from adapters.local.address import listen, socket_path
from adapters.local.server import LocalServer
from adapters.settings import Settings, load_settings
from domain.kernel.ports.read_model import ReadModel
from domain.kernel.ports.transport import Caller, Server
from domain.kernel.ports.vault import Vault
from tests.support.rabbitmq import rabbit_broker, ready_server
from tests.support.scripted import caller, clock, patience, serve_by  # noqa: F401  # fixtures

VAULT_URLS = ["sqlite:", "postgresql:"]
READ_MODEL_URLS = ["sqlite:", "postgresql:"]
BROKER_URLS = ["local:", "amqp:"]


def _scheme(url: str) -> str:
    return url.partition(":")[0]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder


# --- vault -----------------------------------------------------------------------------------


@pytest.fixture(params=VAULT_URLS, ids=_scheme)
def vault_settings(request: pytest.FixtureRequest, home: Path) -> Settings:
    url = request.param
    if url == "postgresql:":
        url = request.getfixturevalue("postgres_url")
        make_kek(home / "secrets" / "kek")  # for a vault that is shared it is never made silently
    return load_settings(environment={"ES_HOME": str(home), "ES_VAULT": url})


@pytest.fixture
def open_vault(vault_settings: Settings) -> Iterator[Callable[[], Vault]]:
    """Opens the vault under test once more, as another worker would."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(wiring.open_vault(vault_settings)))


@pytest.fixture
def vault(open_vault: Callable[[], Vault]) -> Vault:
    return open_vault()


# --- read models -----------------------------------------------------------------------------


@pytest.fixture(params=READ_MODEL_URLS, ids=_scheme)
def read_model_settings(request: pytest.FixtureRequest, home: Path) -> Settings:
    url = request.param
    if url == "postgresql:":
        url = request.getfixturevalue("postgres_url")
    return load_settings(environment={"ES_HOME": str(home), "ES_DATABASE": url})


@pytest.fixture
def open_read_model(read_model_settings: Settings) -> Iterator[Callable[[], ReadModel]]:
    """Opens the read models under test once more, as another worker would."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(wiring.open_read_model(read_model_settings)))


@pytest.fixture
def read_model(open_read_model: Callable[[], ReadModel]) -> ReadModel:
    return open_read_model()


# --- transports ------------------------------------------------------------------------------


@pytest.fixture(params=BROKER_URLS, ids=_scheme)
def broker_settings(request: pytest.FixtureRequest, home: Path) -> Iterator[Settings]:
    if request.param == "local:":
        yield load_settings(environment={"ES_HOME": str(home)})
        return
    with rabbit_broker(request.getfixturevalue("rabbitmq")) as url:
        yield load_settings(environment={"ES_HOME": str(home), "ES_BROKER": url})


@pytest.fixture
def open_server(broker_settings: Settings) -> Callable[[str], Server]:
    """Makes the answering end of a role, as a worker does."""
    if broker_settings.is_local:
        return lambda role: LocalServer(listen(socket_path(broker_settings.run, role)))
    return lambda role: ready_server(broker_settings.broker, role)


@pytest.fixture
def open_caller(broker_settings: Settings) -> Iterator[Callable[[], Caller]]:
    """Makes an asking end, as each invocation of the command line does."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(wiring.open_caller(broker_settings)))
