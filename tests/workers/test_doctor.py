"""`es doctor`: what it finds in every part, and what it says to do next."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import apsw
import pytest

from adapters import versions, wiring
from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.messages import Properties, dead_queue_of
from adapters.settings import Settings, load_settings
from adapters.sqlite import database as sqlite
from domain.features import registry
from domain.kernel.messages import Body
from tests.support.rabbitmq import rabbit_broker, ready_server
from tests.support.servers import RabbitMQ, free_port
from workers import doctor
from workers.erasures.process import COMPLETING

ROLES = registry().role_names

Examine = Callable[..., dict[str, Body]]


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    return lambda **parts: load_settings(environment={"ES_HOME": str(tmp_path / "home"), **parts})


@pytest.fixture
def examine(settings_of: Callable[..., Settings]) -> Examine:
    """The findings by part; of a part that has several the last."""
    return lambda **parts: {found["part"]: found for found in doctor.examine(settings_of(**parts))}


# --- nothing is wrong ------------------------------------------------------------------------


def test_of_an_embedded_system_every_part_is_found_well_with_its_versions(
    examine: Examine, tmp_path: Path
) -> None:
    found = examine()

    assert list(found) == ["es", "home", "broker", "event store", "vault", "read models"]
    assert {each["state"] for each in found.values()} == {"ok"}
    for part, file in {"event store": "events.db", "vault": "vault.db", "read models": "read.db"}.items():
        assert found[part]["version"].startswith("SQLite 3.")
        assert found[part]["schema_version"] == sqlite.SCHEMA_VERSION
        assert str(tmp_path / "home" / file) in found[part]["detail"]


def test_of_postgresql_it_says_version_schema_and_clock_and_no_password(
    examine: Examine, postgres_url: str, tmp_path: Path
) -> None:
    kek = tmp_path / "kek"
    kek.touch(0o600)
    kek.write_text(os.urandom(32).hex())
    found = examine(ES_DATABASE=postgres_url, ES_VAULT=postgres_url, ES_KEK_FILE=str(kek))

    for part in ("vault", "read models"):
        assert found[part]["state"] == "ok", found[part]
        assert found[part]["version"].startswith("PostgreSQL ")
        assert found[part]["schema_version"] == 1
        assert abs(found[part]["clock_offset_s"]) < 30, "it is this machine's own clock"


# --- a part is down --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "variable", "url"),
    [
        ("broker", "ES_BROKER", "amqp://es:s3cret@127.0.0.1:{port}/"),
        ("event store", "ES_STORE", "esdb://admin:s3cret@127.0.0.1:{port}?Tls=false"),
        ("read models", "ES_DATABASE", "postgresql://es:s3cret@127.0.0.1:{port}/es"),
    ],
)
def test_a_server_that_is_down_is_named_with_the_next_step_and_the_others_are_examined(
    examine: Examine, part: str, variable: str, url: str
) -> None:
    examine()  # there is a vault already; a new one is made only when the store can say that it knows nobody
    port = free_port()

    found = examine(**{variable: url.format(port=port)})

    assert {name for name, each in found.items() if each["state"] != "ok"} == {part}
    assert found[part]["state"] == "failed"
    assert found[part]["code"] == "unavailable"
    assert str(port) in found[part]["detail"]
    assert found[part]["next"]
    assert "s3cret" not in json.dumps(found)


def test_a_postgresql_that_only_reads_is_found(examine: Examine, postgres_url: str) -> None:
    assert examine(ES_DATABASE=postgres_url)["read models"]["state"] == "ok"

    found = examine(ES_DATABASE=f"{postgres_url}&options=-c%20default_transaction_read_only%3Don")

    assert {name for name, each in found.items() if each["state"] != "ok"} == {"read models"}
    assert (found["read models"]["state"], found["read models"]["code"]) == ("failed", "unavailable")
    assert "read-only" in found["read models"]["detail"]
    assert "target_session_attrs=read-write" in found["read models"]["next"]


def test_a_server_that_accepts_and_says_nothing_is_named_and_the_others_are_examined(
    examine: Examine,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = examine(ES_BROKER=f"amqp://guest:guest@127.0.0.1:{silent.getsockname()[1]}/")

    assert {name for name, each in found.items() if each["state"] != "ok"} == {"broker"}
    assert (found["broker"]["state"], found["broker"]["code"]) == ("failed", "unavailable")
    assert "too slow to answer" in found["broker"]["detail"]


def test_a_check_that_crashes_is_a_finding_and_the_others_are_examined(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_: Settings) -> None:
        raise LookupError("nobody thought of this")

    monkeypatch.setattr(versions, "store_version", crash)

    found = examine()

    assert {name for name, each in found.items() if each["state"] != "ok"} == {"event store"}
    assert "LookupError" in found["event store"]["detail"]
    assert "nobody" not in json.dumps(found)


def test_an_event_store_behind_what_was_seen_of_it_is_found(
    examine: Examine, settings_of: Callable[..., Settings]
) -> None:
    assert "history" not in examine()
    with closing(wiring.open_vault(settings_of())) as vault:
        vault.save_checkpoint(COMPLETING, 41)

    found = examine()["history"]

    assert (found["state"], found["code"]) == ("failed", "store-behind")
    assert "es ids fence" in found["next"]


def test_a_vault_whose_key_does_not_fit_is_found(examine: Examine, tmp_path: Path) -> None:
    examine()
    other = tmp_path / "other"
    other.touch(0o600)
    other.write_text(os.urandom(32).hex())

    found = examine(ES_KEK_FILE=str(other))["vault"]

    assert (found["state"], found["code"]) == ("failed", "key-unavailable")
    assert "key-encryption key" in found["next"]


def test_a_file_of_a_newer_version_is_found(examine: Examine, tmp_path: Path) -> None:
    examine()
    apsw.Connection(str(tmp_path / "home" / "read.db")).pragma("user_version", 99)

    found = examine()["read models"]

    assert found["state"] == "failed"
    assert "schema version 99" in found["detail"]
    assert "upgrade" in found["next"]


# --- warnings --------------------------------------------------------------------------------


def test_a_sqlite_that_can_corrupt_its_files_is_warned_of(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.45.1")

    found = examine()["event store"]

    assert (found["state"], found["version"]) == ("warning", "SQLite 3.45.1")
    assert "corrupt" in found["detail"]
    assert "apsw" in found["next"]


def test_a_disk_that_is_nearly_full_is_warned_of(
    examine: Examine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "FREE_DISK_WARNING_BYTES", 1 << 62)

    found = examine()["home"]

    assert found["state"] == "warning"
    assert str(tmp_path / "home") in found["detail"]
    assert "Free disk space" in found["next"]


def test_a_postgresql_whose_clock_is_off_is_warned_of(
    examine: Examine, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "now_us", lambda: time.time_ns() // 1000 - 3_600_000_000)

    found = examine(ES_DATABASE=postgres_url)["read models"]

    assert found["state"] == "warning"
    assert 3500 < found["clock_offset_s"] < 3700
    assert "NTP" in found["next"]


def test_a_queue_that_nobody_serves_and_one_with_dead_letters_are_warned_of(
    examine: Examine, rabbitmq: RabbitMQ
) -> None:
    with rabbit_broker(rabbitmq, ROLES) as url, closing(ready_server(url, "users")):
        with open_channel(url) as channel:
            channel.basic_publish(
                "", dead_queue_of("users"), b"{}", Properties(message_id="m-1"), mandatory=True
            )

        found = examine(ES_BROKER=url)

    assert found["broker"]["state"] == "ok", found["broker"]
    assert found["broker"]["version"].startswith("RabbitMQ ")
    assert [found["queue ids"][key] for key in ("state", "detail")] == ["warning", "no worker takes from it"]
    assert "es workers run ids" in found["queue ids"]["next"]
    assert [found["queue users"][key] for key in ("state", "detail")] == ["warning", "1 dead letters"]
    assert "es dead show users" in found["queue users"]["next"]


# --- EventStoreDB ----------------------------------------------------------------------------


@contextmanager
def info_page(said: object, *, ahead_s: float = 0) -> Iterator[int]:
    """A stand-in for the `/info` page of EventStoreDB, which the test node (gRPC alone) doesn't have: its port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            raw = json.dumps(said).encode()
            self.send_response_only(200)
            self.send_header("Date", formatdate(time.time() + ahead_s, usegmt=True))
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            """Nothing: pytest's output is no access log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("said", "name", "licence"),
    [
        ({"esVersion": "23.10.7.0"}, "EventStoreDB 23.10.7.0", "BSD-3-Clause"),
        ({"esVersion": "24.10.0-rc1"}, "EventStoreDB 24.10.0", "Event Store License v2"),
        ({"dbVersion": "25.1.2"}, "KurrentDB 25.1.2", "Kurrent License v1"),
    ],
)
def test_of_eventstoredb_it_says_the_version_and_its_licence(
    settings_of: Callable[..., Settings], said: object, name: str, licence: str
) -> None:
    with info_page(said) as port:
        found = versions.store_version(settings_of(ES_STORE=f"esdb://127.0.0.1:{port}?Tls=false"))

    assert found.name == name
    assert found.licence.startswith(licence)


@pytest.mark.parametrize("said", [{}, [], {"esVersion": "next"}, {"esVersion": 23}, "hello"])
def test_an_eventstoredb_that_does_not_say_its_version_is_no_failure(
    settings_of: Callable[..., Settings], said: object
) -> None:
    with info_page(said) as port:
        found = versions.store_version(settings_of(ES_STORE=f"esdb://127.0.0.1:{port}?Tls=false"))

    assert "doesn't say" in found.name
    assert "BSD-3-Clause up to 23.10" in found.licence


@pytest.mark.parametrize(
    ("ahead_s", "least_s", "most_s"), [(0, 0, 0), (3600, 3580, 3600), (-3600, -3600, -3580)]
)
def test_the_clock_of_eventstoredb_is_compared_as_well_as_whole_seconds_allow(
    settings_of: Callable[..., Settings], ahead_s: float, least_s: float, most_s: float
) -> None:
    with info_page({"esVersion": "23.10.7"}, ahead_s=ahead_s) as port:
        found = versions.store_version(settings_of(ES_STORE=f"esdb://127.0.0.1:{port}?Tls=false"))

    assert found.clock_offset_us is not None
    assert least_s <= found.clock_offset_us / 1e6 <= most_s
