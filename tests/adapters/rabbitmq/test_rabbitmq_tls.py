"""RabbitMQ over TLS: `amqps://` with a CA and a client certificate, and everything that must be refused.

Keys and certificates are made here and live in a temporary folder. The server demands a client certificate.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from adapters.log import open_log
from adapters.rabbitmq.caller import RabbitCaller
from adapters.rabbitmq.connection import dead_queue_of, open_channel, queue_of
from adapters.rabbitmq.publisher import EXCHANGE
from adapters.rabbitmq.server import RabbitServer
from domain.kernel.errors import PartUnavailable
from tests.support.servers import RabbitMQ, started_rabbitmq
from tests.support.system import ROLES, System, new_root
from tests.support.waiting import DEADLINE_S, eventually

HOST = "127.0.0.1"


# --- certificates ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority of the tests' own."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(self._subject, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *hosts: str, expired: bool = False) -> Identity:
        """A certificate for a client, or for a server under these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = self._builder(subject, key, expired=expired)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(map(_general, hosts)), critical=False)
        made = Identity(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        certificate = builder.sign(self._key, hashes.SHA256())
        made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return made

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, expired: bool = False
    ) -> x509.CertificateBuilder:
        day = dt.timedelta(days=1)
        until = dt.datetime.now(dt.UTC) + (-day if expired else day)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(until - 3 * day)
            .not_valid_after(until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class Broker:
    """A private RabbitMQ that demands a client certificate, and URLs for it, usable and not."""

    def __init__(self, server: RabbitMQ, folder: Path, ca: Authority, client: Identity) -> None:
        self.server = server
        self.folder = folder
        self.ca = ca
        self.client = client

    def url(
        self,
        *,
        scheme: str = "amqps",
        port: int | None = None,
        cafile: Path | None = None,
        client: Identity | None = None,
    ) -> str:
        """By default what works: the others are each one thing that doesn't."""
        client = client or self.client
        files = {"cafile": cafile or self.ca.file, "certfile": client.certificate, "keyfile": client.key}
        return self.bare_url(scheme=scheme, port=port) + "?" + urlencode(files)

    def bare_url(self, *, scheme: str = "amqps", port: int | None = None) -> str:
        password = urlsplit(self.server.url).password
        return f"{scheme}://guest:{password}@{HOST}:{port or self.server.tls_port}/"


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with tempfile.TemporaryDirectory(prefix="es-tls-") as name, contextlib.ExitStack() as ending:
        folder = Path(name)
        ca = Authority(folder, "ca")
        server = ca.issue("server", "localhost", HOST)
        options = {
            "cacertfile": ca.file,
            "certfile": server.certificate,
            "keyfile": server.key,
            "verify": "verify_peer",
            "fail_if_no_peer_cert": "true",
        }
        started = ending.enter_context(started_rabbitmq(tls=options))
        yield Broker(started, folder, ca, ca.issue("client"))


@pytest.fixture
def open_system() -> Iterator[Callable[[str], System]]:
    """Makes a system over a broker's URL."""
    with contextlib.ExitStack() as ending:

        def make(url: str) -> System:
            made = System(new_root(), parts={"ES_BROKER": url})
            ending.callback(made.close)
            return made

        yield make


# --- what works ------------------------------------------------------------------------------


def test_commands_workers_and_the_relay_speak_over_tls_alone(
    broker: Broker, open_system: Callable[[str], System]
) -> None:
    system, url = open_system(broker.url()), broker.url()
    with open_channel(url) as channel:  # somebody outside who wants events
        channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
        channel.queue_declare("listener", durable=True)
        channel.queue_bind("listener", EXCHANGE, "user-registered.*")

    system.up()
    user_id = system.create()

    assert system.get(user_id)["name"] == "Ada Lovelace"
    published = eventually(lambda: _first(url, "listener"), "the relay publishes the event")
    assert published["stream"] == f"user-{user_id}"
    queues = system.es("dead", "list", "--json").ok().objects
    assert {queue["role"]: queue["dead"] for queue in queues} == dict.fromkeys((*ROLES, "relay"), 0)
    findings = {found["part"]: found for found in system.es("doctor", "--json").ok().objects}
    assert findings["broker"]["state"] == "ok"
    assert findings["broker"]["version"].startswith("RabbitMQ")
    assert str(urlsplit(url).password) not in json.dumps(findings)
    connections = broker.server.ctl("list_connections", "--quiet", "--no-table-headers", "ssl").split()
    assert len(connections) > len(ROLES)
    assert set(connections) == {"true"}


def _first(url: str, queue: str) -> dict[str, Any] | None:
    with open_channel(url) as channel:
        method, _, body = channel.basic_get(queue, auto_ack=True)
    return json.loads(body) if method else None


def test_large_requests_and_answers_pass_whole(broker: Broker, role: str) -> None:
    # Far more than a TLS record or a socket's buffer holds, both ways at once.
    bodies = [{"n": number, "text": "x" * 100_000} for number in range(60)]
    with (
        closing(RabbitServer(broker.url(), role)) as server,
        closing(RabbitCaller(broker.url())) as caller,
    ):
        assert server.wait_until_ready(DEADLINE_S)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                server.answer([(each, each.request.body) for each in server.receive(256, 0.05)])

        worker = threading.Thread(target=serve)
        worker.start()
        try:
            asked = [("echo", body) for body in bodies]
            assert list(caller.pipeline(role, asked, timeout_s=DEADLINE_S * 3)) == bodies
        finally:
            over.set()
            worker.join()


@pytest.fixture
def role(broker: Broker) -> Iterator[str]:
    name = f"test-{uuid4().hex[:12]}"
    yield name
    broker.server.delete_queues(queue_of(name), dead_queue_of(name))


# --- what is refused -------------------------------------------------------------------------


@contextlib.contextmanager
def impostor(identity: Identity) -> Iterator[int]:
    """The port of somebody who shows this certificate and then hangs up: no client should come that far."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)

    def show() -> None:
        while True:
            with contextlib.suppress(OSError):
                accepted, _ = listener.accept()
                if over.is_set():
                    return
                with accepted:
                    accepted.settimeout(DEADLINE_S)
                    context.wrap_socket(accepted, server_side=True).close()

    over = threading.Event()
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=show)
        thread.start()
        try:
            yield port
        finally:
            over.set()
            socket.create_connection((HOST, port)).close()
            thread.join()


def _from_another_ca(broker: Broker, _: contextlib.ExitStack) -> str:
    return broker.url(cafile=Authority(broker.folder, "other-ca").file)


def _no_ca_named(broker: Broker, _: contextlib.ExitStack) -> str:
    return broker.bare_url()


def _for_another_host(broker: Broker, ending: contextlib.ExitStack) -> str:
    shown = broker.ca.issue("elsewhere", "elsewhere.example")
    return broker.url(port=ending.enter_context(impostor(shown)))


def _expired(broker: Broker, ending: contextlib.ExitStack) -> str:
    shown = broker.ca.issue("expired-server", "localhost", HOST, expired=True)
    return broker.url(port=ending.enter_context(impostor(shown)))


def _without_client_certificate(broker: Broker, _: contextlib.ExitStack) -> str:
    return f"{broker.bare_url()}?{urlencode({'cafile': broker.ca.file})}"


def _expired_client_certificate(broker: Broker, _: contextlib.ExitStack) -> str:
    return broker.url(client=broker.ca.issue("expired-client", expired=True))


def _client_certificate_of_another_ca(broker: Broker, _: contextlib.ExitStack) -> str:
    return broker.url(client=Authority(broker.folder, "foreign-ca").issue("foreign-client"))


def _plain_amqp_to_the_tls_port(broker: Broker, _: contextlib.ExitStack) -> str:
    return broker.bare_url(scheme="amqp")


def _tls_to_the_plain_port(broker: Broker, _: contextlib.ExitStack) -> str:
    return broker.url(port=urlsplit(broker.server.url).port)


REFUSALS = [
    (_from_another_ca, "certificate is not accepted.*certificate chain", "cafile="),
    (_no_ca_named, "certificate is not accepted.*certificate chain", "cafile="),
    (_for_another_host, f"certificate is not accepted.*not valid for '{HOST}'", "host"),
    (_expired, "certificate is not accepted.*expired", "renewed"),
    (_without_client_certificate, "may not accept our certificate", "certfile=.*keyfile="),
    (_expired_client_certificate, "may not accept our certificate", "certfile=.*keyfile="),
    (_client_certificate_of_another_ca, "may not accept our certificate", "certfile=.*keyfile="),
    (_plain_amqp_to_the_tls_port, "hung up before", "amqps://"),
    (_tls_to_the_plain_port, "does not speak TLS", "5671"),
]


@pytest.mark.parametrize(
    ("url_of", "reason", "hint"), REFUSALS, ids=[case[0].__name__.strip("_") for case in REFUSALS]
)
def test_a_connection_that_is_not_to_be_trusted_is_refused_with_the_reason_and_a_next_step(
    broker: Broker,
    open_system: Callable[[str], System],
    url_of: Callable[[Broker, contextlib.ExitStack], str],
    reason: str,
    hint: str,
) -> None:
    with contextlib.ExitStack() as ending:
        url = url_of(broker, ending)

        typed = open_system(url).es("dead", "list").failed(4)
        with closing(RabbitCaller(url)) as caller, pytest.raises(PartUnavailable) as asked:
            caller.ask("users", "users.get", {}, timeout_s=2.0)

    # Both ways to the broker say the same: by hand, and by the thread that keeps a connection.
    for said, next_ in ((typed.err, typed.err), (asked.value.reason, asked.value.hint)):
        assert re.search(reason, said)
        assert re.search(hint, next_)
    assert "RabbitMQ" in typed.err
    for secret in (str(urlsplit(broker.server.url).password), "Error", "_ssl.c"):
        assert secret not in typed.err + str(asked.value)


def test_a_worker_whose_certificate_is_refused_says_so_in_its_log_and_goes_on_trying(
    broker: Broker, tmp_path: Path, role: str
) -> None:
    refusing = _without_client_certificate(broker, contextlib.ExitStack())
    log_file = tmp_path / "worker.log"

    with closing(RabbitServer(refusing, role, log=open_log(f"tls-{uuid4()}", log_file))) as server:
        server.receive(1, 0.1)

        # Again and again: whoever looks after the broker may mend its list of authorities meanwhile.
        eventually(lambda: log_file.read_text().count("broker-lost") >= 3, "it tries again")
        assert server.receive(1, 0.1) == [], "and it is no failure for good"

    lines = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert "may not accept our certificate" in lines[0]["reason"]
    assert not [line for line in lines if line["action"] == "broker-thread-crashed"]
