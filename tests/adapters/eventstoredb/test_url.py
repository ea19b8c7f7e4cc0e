"""URLs that are refused before the first connection."""

from __future__ import annotations

import pytest

from domain.kernel.errors import InvalidInput, PartUnavailable
from tests.support.eventstoredb import OpenStore, Store

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


@pytest.mark.parametrize(
    "url",
    [
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
    ],
)
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


def test_a_url_that_only_lacks_a_user_is_refused_with_this_reason() -> None:
    with pytest.raises(InvalidInput, match="needs a user and a password"):
        Store("esdb://a,b,c:2113")
