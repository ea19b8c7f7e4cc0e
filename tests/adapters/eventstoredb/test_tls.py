"""TLS, client certificates and passwords. `Trap` marks unexpected behaviour of esdbclient."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from domain.kernel.errors import PartUnavailable
from domain.kernel.events import BEGINNING
from domain.kernel.ports.event_store import Appended
from tests.support.certificates import Authority
from tests.support.eventstoredb import OpenStore
from tests.support.node import Node, Proxy
from tests.support.waiting import DEADLINE_S

UrlOf = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the certificates of these tests are. other.pem is that of a CA that signed none of them."""
    folder = tmp_path_factory.mktemp("certificates")
    Authority(folder, "other")
    return folder


@pytest.fixture(scope="module")
def ca(folder: Path) -> Authority:
    return Authority(folder, "ca")


@pytest.fixture
def secure_node(ca: Authority) -> Iterator[Node]:
    """Requires TLS, a client certificate and a user."""
    server = ca.issue("server", "127.0.0.1")
    with closing(Node(tls=server, client_ca=ca.file, user="admin:s3cret")) as node:
        yield node


@pytest.fixture
def url_of(secure_node: Node, ca: Authority, folder: Path) -> UrlOf:
    client = ca.issue("client")

    def url_of(trusted: str = "ca.pem", password: str = "s3cret") -> str:
        files = f"tlsCaFile={folder / trusted}&userCertFile={client.certificate}&userKeyFile={client.key}"
        return f"esdb://admin:{password}@127.0.0.1:{secure_node.port}?{files}"

    return url_of


def test_tls_with_a_client_certificate_and_a_user_works(url_of: UrlOf, open_store: OpenStore) -> None:
    # Trap: esdbclient takes these from its URL only.
    store = open_store(url_of())
    assert isinstance(store.write(), Appended)
    assert len(store.followed()) == 1


def test_a_user_and_password_may_contain_any_character(ca: Authority, open_store: OpenStore) -> None:
    with closing(Node(tls=ca.issue("server", "127.0.0.1"), user="ad min:p@ss/w?rd#%")) as node:
        user = "ad%20min:p%40ss%2Fw%3Frd%23%25"
        url = f"esdb://{user}@127.0.0.1:{node.port}?tlsCaFile={ca.file}"
        with closing(open_store(url)) as store:
            assert store.head() == BEGINNING


@pytest.mark.parametrize("name", ["tlsCaFile", "userCertFile", "userKeyFile"])
def test_an_empty_certificate_file_is_reported_before_grpc_ends_the_process(
    url_of: UrlOf, open_store: OpenStore, tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty.pem").touch()
    store = open_store(re.sub(rf"{name}=[^&]*", f"{name}={tmp_path / 'empty.pem'}", url_of()))

    with pytest.raises(PartUnavailable, match=name):
        store.head()


@pytest.mark.parametrize(
    ("trusted", "password", "reason"),
    [("ca.pem", "wr0ng", "UNAUTHENTICATED"), ("other.pem", "s3cret", "the TLS handshake failed")],
)
@pytest.mark.parametrize("hosts", ["{node}", "{unavailable},{node}", "{node},{unavailable}"])
def test_a_wrong_password_or_ca_is_not_reported_as_a_missing_leader(
    secure_node: Node,
    url_of: UrlOf,
    open_store: OpenStore,
    hosts: str,
    trusted: str,
    password: str,
    reason: str,
) -> None:
    unavailable = Proxy(secure_node.port)
    unavailable.close()
    target = f"127.0.0.1:{secure_node.port}"
    targets = hosts.format(node=target, unavailable=f"127.0.0.1:{unavailable.port}")
    url = url_of(trusted, password).replace(target, targets)
    if "," not in hosts:
        url = url.replace("esdb:", "esdb+discover:")

    with pytest.raises(PartUnavailable, match=reason):
        open_store(url).head()


@pytest.mark.parametrize(
    ("trusted", "password", "reason"),
    [("ca.pem", "wr0ng", "UNAUTHENTICATED"), ("missing.pem", "s3cret", "No such file")],
)
def test_a_failure_that_no_retry_can_change_is_reported_at_once(
    url_of: UrlOf, open_store: OpenStore, trusted: str, password: str, reason: str
) -> None:
    store = open_store(url_of(trusted, password), settle_s=2 * DEADLINE_S)
    started_s = time.monotonic()
    for call in (store.write, store.head):
        with pytest.raises(PartUnavailable, match=reason) as raised:
            call()
        assert password not in f"{raised.value} {raised.value.hint}"

    assert time.monotonic() - started_s < DEADLINE_S


def test_a_server_with_a_certificate_of_another_ca_is_not_trusted(
    secure_node: Node, url_of: UrlOf, open_store: OpenStore
) -> None:
    with pytest.raises(PartUnavailable):
        open_store(url_of("other.pem"), settle_s=1.0).write()

    assert secure_node.calls.total() == 0
