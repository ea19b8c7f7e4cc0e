"""TLS, client certificates and passwords. `Trap` marks unexpected behaviour of esdbclient."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from domain.kernel.errors import PartUnavailable
from domain.kernel.events import BEGINNING
from domain.kernel.ports.event_store import Appended
from tests.support.eventstoredb import OpenStore
from tests.support.node import Node, Proxy, Tls
from tests.support.waiting import DEADLINE_S

PEM = serialization.Encoding.PEM
UrlOf = Callable[..., str]
Identity = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, server.pem and client.pem with their keys, and other.pem, a CA that signed none of them."""
    folder = tmp_path_factory.mktemp("certificates")
    ca = _identity("ca")
    signed = {name: _identity(name, ca) for name in ("server", "client")}
    for name, (key, certificate) in {**signed, "ca": ca, "other": _identity("other")}.items():
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(PEM))
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / f"{name}.key").write_bytes(private)
    return folder


def _identity(name: str, ca: Identity | None = None) -> Identity:
    """A key and its certificate, signed by `ca`, or a CA of its own without one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca[1].subject if ca else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
        .sign(ca[0] if ca else key, hashes.SHA256())
    )
    return key, certificate


def _node(folder: Path, user: str, client_ca: bytes | None = None) -> Node:
    key, certificate = ((folder / name).read_bytes() for name in ("server.key", "server.pem"))
    return Node(tls=Tls(key, certificate, client_ca), user=user)


@pytest.fixture
def secure_node(certificates: Path) -> Iterator[Node]:
    """Requires TLS, a client certificate and a user."""
    with closing(_node(certificates, "admin:s3cret", (certificates / "ca.pem").read_bytes())) as node:
        yield node


@pytest.fixture
def url_of(secure_node: Node, certificates: Path) -> UrlOf:
    def url_of(*, ca: str = "ca.pem", password: str = "s3cret") -> str:
        files = f"userCertFile={certificates / 'client.pem'}&userKeyFile={certificates / 'client.key'}"
        target = f"127.0.0.1:{secure_node.port}"
        return f"esdb://admin:{password}@{target}?tlsCaFile={certificates / ca}&{files}"

    return url_of


def test_tls_with_a_client_certificate_and_a_user_works(url_of: UrlOf, open_store: OpenStore) -> None:
    # Trap: esdbclient takes these from its URL only.
    store = open_store(url_of())
    assert isinstance(store.write(), Appended)
    assert len(store.followed()) == 1


def test_a_user_and_password_may_contain_any_character(certificates: Path, open_store: OpenStore) -> None:
    with closing(_node(certificates, "ad min:p@ss/w?rd#%")) as node:
        user = "ad%20min:p%40ss%2Fw%3Frd%23%25"
        url = f"esdb://{user}@127.0.0.1:{node.port}?tlsCaFile={certificates / 'ca.pem'}"
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
    ("ca", "password", "reason"),
    [("ca.pem", "wr0ng", "UNAUTHENTICATED"), ("other.pem", "s3cret", "the TLS handshake failed")],
)
@pytest.mark.parametrize("hosts", ["{node}", "{unavailable},{node}", "{node},{unavailable}"])
def test_a_wrong_password_or_ca_is_not_reported_as_a_missing_leader(
    secure_node: Node, url_of: UrlOf, open_store: OpenStore, hosts: str, ca: str, password: str, reason: str
) -> None:
    unavailable = Proxy(secure_node.port)
    unavailable.close()
    target = f"127.0.0.1:{secure_node.port}"
    targets = hosts.format(node=target, unavailable=f"127.0.0.1:{unavailable.port}")
    url = url_of(ca=ca, password=password).replace(target, targets)
    if "," not in hosts:
        url = url.replace("esdb:", "esdb+discover:")

    with pytest.raises(PartUnavailable, match=reason):
        open_store(url).head()


@pytest.mark.parametrize(
    ("ca", "password", "reason"),
    [("ca.pem", "wr0ng", "UNAUTHENTICATED"), ("missing.pem", "s3cret", "No such file")],
)
def test_a_failure_that_no_retry_can_change_is_reported_at_once(
    url_of: UrlOf, open_store: OpenStore, ca: str, password: str, reason: str
) -> None:
    store = open_store(url_of(ca=ca, password=password), settle_s=2 * DEADLINE_S)
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
        open_store(url_of(ca="other.pem"), settle_s=1.0).write()

    assert secure_node.calls.total() == 0
