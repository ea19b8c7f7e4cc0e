"""The parts under contract, opened as a worker opens them: by URL, through `adapters.wiring`.

Another adapter joins its suite with one line in a list below. A URL without a path gets a fresh place for
each test. The URL is all that a contract test knows of an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from adapters import wiring
from adapters.crypto.kek import make_kek
from adapters.settings import Settings, load_settings
from domain.kernel.ports.read_model import ReadModel
from domain.kernel.ports.vault import Vault
from domain.kernel.ports.worklist import Worklist
from tests.support.postgres import empty, own_schema
from tests.support.rabbitmq import rabbit_broker
from tests.support.transports import (  # noqa: F401  # fixtures
    caller,
    clock,
    echoing,
    long_timeouts,
    transport,
)

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


@pytest.fixture(scope="session")
def postgres_vault_schema(postgres_database: str) -> Iterator[str]:
    with own_schema(postgres_database) as url:
        yield url


@pytest.fixture
def postgres_vault_url(postgres_vault_schema: str) -> Iterator[str]:
    """The URL of a vault without rows. Its many tables are made once for all tests, which takes a second."""
    yield postgres_vault_schema
    empty(postgres_vault_schema, "vault")


@pytest.fixture(params=VAULT_URLS, ids=_scheme)
def vault_settings(request: pytest.FixtureRequest, home: Path) -> Settings:
    url = request.param
    if url == "postgresql:":
        url = request.getfixturevalue("postgres_vault_url")
        make_kek(home / "secrets" / "kek")  # the program never makes one for a shared vault
    return load_settings(environment={"ES_HOME": str(home), "ES_VAULT": url})


@pytest.fixture
def open_vault(vault_settings: Settings) -> Iterator[Callable[[], Vault]]:
    """Opens the vault under test, each time as another worker would."""
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
    """Opens the read models under test, each time as another worker would."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(wiring.open_read_model(read_model_settings)))


@pytest.fixture
def read_model(open_read_model: Callable[[], ReadModel]) -> ReadModel:
    return open_read_model()


@pytest.fixture
def open_worklist(read_model_settings: Settings) -> Iterator[Callable[[], Worklist]]:
    """Opens the worklist under test, each time as another worker would."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(wiring.open_worklist(read_model_settings)))


@pytest.fixture
def worklist(open_worklist: Callable[[], Worklist]) -> Worklist:
    return open_worklist()


# --- transports ------------------------------------------------------------------------------


@pytest.fixture(params=BROKER_URLS, ids=_scheme)
def broker_settings(request: pytest.FixtureRequest, home: Path) -> Iterator[Settings]:
    if request.param == "local:":
        yield load_settings(environment={"ES_HOME": str(home)})
        return
    with rabbit_broker(request.getfixturevalue("rabbitmq")) as url:
        yield load_settings(environment={"ES_HOME": str(home), "ES_BROKER": url})
