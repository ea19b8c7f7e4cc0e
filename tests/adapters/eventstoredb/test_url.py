"""URLs that are refused before the first connection."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from adapters import wiring
from adapters.eventstoredb.url import checked
from adapters.settings import load_settings
from adapters.versions import store_version
from domain.kernel.errors import InvalidInput, PartUnavailable
from tests.support.eventstoredb import OpenStore, Store
from tests.support.node import Node

OPTIONS = [
    "colour=red",
    "nodePreference=follower",
    "tlsVerifyCert=false",  # esdbclient ignores it
    "userCertFile=client.pem",  # gRPC would end the process
    "userKeyFile=client.key",
    "connectionName=caf\u00e9",
    "connectionName=a%0Ab",
    "maxDiscoverAttempts=-1",
    "keepAliveInterval=99999999999",
    "gossipTimeout=-1",
    "discoveryInterval=-1",
]


URLS = [
    "esdb:",
    "esdb://",
    "http://admin:s3cret@localhost:2113",
    "esdb://s3cret@localhost:2113",
    "esdb://admin:p@s3cret@localhost:2113",
    "esdb://admin:s3cret@[localhost",
    "esdb://admin:s3cret\u2100@localhost",
    "esdb://admin:/s3cret@localhost?tls=false",  # its first part would be parsed as host and port
    "esdb://admin:s3cret?@localhost&tls=false",
    "esdb://admin:s3cret@localhost?tlsCaFile=a@b",
    "esdb://admin:s3cret@localhost:2113#s3cret",
    "esdb+discover://admin:s3cret@localhost:2113?maxDiscoverAttempts=0",
    *(f"esdb://admin:s3cret@localhost:2113?{option}" for option in OPTIONS),
    "kurrentdb:s3cret",
    "kurrentdb+s3cret://localhost",
    "kurrent://admin:s3cret@localhost",
]


@pytest.mark.parametrize("url", [*URLS, *(url.replace("esdb", "kurrentdb") for url in URLS if "esdb" in url)])
def test_a_url_that_cannot_work_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        Store(url)

    assert raised.value.field == "store"
    assert "s3cret" not in f"{raised.value} {raised.value.hint}"
    assert raised.value.__cause__ is None


def test_a_url_may_end_with_an_empty_query(open_store: OpenStore) -> None:
    store = open_store("esdb://admin:s3cret@localhost:1?", settle_s=0.1)
    with pytest.raises(PartUnavailable) as raised:
        store.head()

    assert "s3cret" not in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize(
    ("scheme", "hosts"), [("kurrentdb", "a:1"), ("kurrentdb", "a:1,b:2"), ("kurrentdb+discover", "a:1")]
)
def test_the_schemes_of_kurrentdb_mean_those_of_eventstoredb(scheme: str, hosts: str) -> None:
    rest = f"://kurrentdb:p%40ss@{hosts}?connectionName=x"

    assert checked(scheme + rest) == checked(scheme.replace("kurrentdb", "esdb") + rest)


@pytest.mark.parametrize("scheme", ["kurrentdb", "kurrentdb+discover"])
def test_a_store_is_opened_by_the_schemes_of_kurrentdb(scheme: str, node: Node, tmp_path: Path) -> None:
    url = node.url.replace("esdb", scheme)
    settings = load_settings(environment={"ES_HOME": str(tmp_path), "ES_STORE": url})

    assert settings.store == url
    with closing(wiring.open_store(settings.store)) as store:
        assert store.head() == 0
    assert store_version(settings).name.startswith(("EventStoreDB", "KurrentDB"))


def test_a_url_that_only_lacks_a_user_is_refused_with_this_reason() -> None:
    with pytest.raises(InvalidInput, match="needs a user and a password"):
        Store("esdb://a,b,c:2113")
