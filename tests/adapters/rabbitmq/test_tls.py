"""RabbitMQ over TLS: `amqps://` with a CA and a client certificate, and every connection that must be refused."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import pytest

from adapters.log import open_log
from adapters.rabbitmq.caller import RabbitCaller
from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.messages import dead_queue_of, queue_of
from adapters.rabbitmq.publisher import EXCHANGE
from adapters.settings import Settings, load_settings
from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.transport import Caller
from tests.support.certificates import Authority, Identity
from tests.support.rabbitmq import rabbit_server
from tests.support.servers import RabbitMQ, started_rabbitmq
from tests.support.system import ROLES, System, new_root
from tests.support.transports import ROLE, Serving, background
from tests.support.waiting import DEADLINE_S, eventually

HOST = "127.0.0.1"
OpenSystem = Callable[[str], System]


class Broker:
    """A private RabbitMQ that demands a client certificate, and URLs for it."""

    def __init__(self, server: RabbitMQ, folder: Path, ca: Authority) -> None:
        self.server = server
        self.folder = folder
        self.ca = ca
        self.password = str(urlsplit(server.url).password)
        self._client = ca.issue("client")

    def url(
        self, *, port: int | None = None, ca: Authority | None = None, client: Identity | None = None
    ) -> str:
        """A URL that works, except for what is given."""
        files = {"cafile": (ca or self.ca).file, "certfile": (client or self._client).certificate}
        files["keyfile"] = (client or self._client).key
        return self.bare_url(port=port) + "?" + urlencode(files)

    def bare_url(self, *, scheme: str = "amqps", port: int | None = None) -> str:
        return f"{scheme}://guest:{self.password}@{HOST}:{port or self.server.tls_port}/"

    def another_ca(self) -> Authority:
        return Authority(self.folder, "another-ca")

    def without_client_certificate(self) -> str:
        return f"{self.bare_url()}?{urlencode({'cafile': self.ca.file})}"


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with tempfile.TemporaryDirectory(prefix="es-tls-") as name:
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
        with started_rabbitmq(tls=options) as started:
            yield Broker(started, folder, ca)


@pytest.fixture
def broker_settings(broker: Broker, tmp_path: Path) -> Iterator[Settings]:
    yield load_settings(environment={"ES_HOME": str(tmp_path), "ES_BROKER": broker.url()})
    broker.server.delete_queues(queue_of(ROLE), dead_queue_of(ROLE))


@pytest.fixture
def open_system() -> Iterator[OpenSystem]:
    """Opens a system over a broker's URL."""
    with ExitStack() as opened:
        yield lambda url: opened.enter_context(closing(System(new_root(), parts={"ES_BROKER": url})))


# --- connections that work -------------------------------------------------------------------


def test_commands_workers_and_the_relay_use_tls_alone(broker: Broker, open_system: OpenSystem) -> None:
    system, url = open_system(broker.url()), broker.url()
    with open_channel(url) as channel:  # a subscriber of events
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
    assert broker.password not in json.dumps(findings)
    connections = broker.server.ctl("list_connections", "--quiet", "--no-table-headers", "ssl").split()
    assert len(connections) > len(ROLES)
    assert set(connections) == {"true"}


def _first(url: str, queue: str) -> dict[str, Any] | None:
    with open_channel(url) as channel:
        method, _, body = channel.basic_get(queue, auto_ack=True)
    return json.loads(body) if method else None


def test_large_requests_and_replies_arrive_whole(echoing: Serving, caller: Caller) -> None:
    # Much larger than a TLS record or the buffer of a socket, in both directions at once.
    bodies = [{"n": number, "text": "x" * 100_000} for number in range(60)]
    requests = [("echo", body) for body in bodies]

    assert list(caller.pipeline(ROLE, requests, timeout_s=DEADLINE_S * 3)) == bodies


# --- connections that are refused ------------------------------------------------------------


@contextlib.contextmanager
def impostor(identity: Identity) -> Iterator[int]:
    """The port of a server that presents this certificate. A client must refuse it during the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)

    def present() -> None:
        while True:
            with contextlib.suppress(OSError):
                accepted, _ = listener.accept()
                if over.is_set():
                    return
                with accepted:
                    accepted.settimeout(DEADLINE_S)
                    context.wrap_socket(accepted, server_side=True).close()

    over = threading.Event()
    with socket.create_server((HOST, 0)) as listener, background(present):
        port = listener.getsockname()[1]
        try:
            yield port
        finally:
            over.set()
            socket.create_connection((HOST, port)).close()


def impostor_url(broker: Broker, opened: ExitStack, *hosts: str, expired: bool = False) -> str:
    presented = broker.ca.issue("impostor", *hosts, expired=expired)
    return broker.url(port=opened.enter_context(impostor(presented)))


UrlOf = Callable[[Broker, ExitStack], str]
UNKNOWN_CA = ("certificate is not accepted.*certificate chain", "cafile=")
OTHER_HOST = (f"certificate is not accepted.*not valid for '{HOST}'", "host")
EXPIRED = ("certificate is not accepted.*expired", "Renew")
BAD_CLIENT = ("may not accept our certificate", "certfile=.*keyfile=")
NO_AMQP = ("closed the connection before", "amqps://")
NO_TLS = ("does not speak TLS", "5671")
REFUSALS: dict[str, tuple[UrlOf, tuple[str, str]]] = {
    "from_another_ca": (lambda b, _: b.url(ca=b.another_ca()), UNKNOWN_CA),
    "no_ca_named": (lambda b, _: b.bare_url(), UNKNOWN_CA),
    "for_another_host": (lambda b, opened: impostor_url(b, opened, "elsewhere.example"), OTHER_HOST),
    "expired": (lambda b, opened: impostor_url(b, opened, "localhost", HOST, expired=True), EXPIRED),
    "without_client_certificate": (lambda b, _: b.without_client_certificate(), BAD_CLIENT),
    "expired_client_certificate": (lambda b, _: b.url(client=b.ca.issue("old", expired=True)), BAD_CLIENT),
    "client_certificate_of_another_ca": (
        lambda b, _: b.url(client=b.another_ca().issue("foreign")),
        BAD_CLIENT,
    ),
    "plain_amqp_to_the_tls_port": (lambda b, _: b.bare_url(scheme="amqp"), NO_AMQP),
    "tls_to_the_plain_port": (lambda b, _: b.url(port=urlsplit(b.server.url).port), NO_TLS),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_untrusted_connection_is_refused_with_the_reason_and_a_next_step(
    broker: Broker, open_system: OpenSystem, case: str
) -> None:
    url_of, (reason, hint) = REFUSALS[case]
    with ExitStack() as opened:
        url = url_of(broker, opened)

        typed = open_system(url).es("dead", "list").failed(4)
        with closing(RabbitCaller(url)) as caller, pytest.raises(PartUnavailable) as asked:
            caller.ask("users", "users.get", {}, timeout_s=2.0)

    # The blocking channel and the link report the same.
    for message, next_step in ((typed.err, typed.err), (asked.value.reason, asked.value.hint)):
        assert re.search(reason, message)
        assert re.search(hint, next_step)
    assert "RabbitMQ" in typed.err
    for secret in (broker.password, "Error", "_ssl.c"):
        assert secret not in typed.err + str(asked.value)


def test_a_worker_whose_certificate_is_refused_logs_the_reason_and_retries(
    broker: Broker, tmp_path: Path
) -> None:
    log_file = tmp_path / "worker.log"
    url, log = broker.without_client_certificate(), open_log(f"tls-{uuid4()}", log_file)

    with closing(rabbit_server(url, ROLE, log=log)) as server:
        server.receive(1, 0.1)

        # For ever: an operator may correct the broker's list of authorities meanwhile.
        eventually(lambda: log_file.read_text().count("broker-lost") >= 3, "it retries")
        assert server.receive(1, 0.1) == [], "this is no failure for ever"

    lines = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert "may not accept our certificate" in lines[0]["reason"]
    assert not [line for line in lines if line["action"] == "broker-thread-crashed"]
