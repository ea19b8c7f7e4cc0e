"""`es doctor`: its findings for every part, and the next step that each names."""

from __future__ import annotations

import json
import os
import socket
import sys
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
from adapters.settings import Settings, load_settings
from domain.features import registry
from domain.kernel.history import History
from domain.kernel.messages import Body
from tests.support.rabbitmq import rabbit_broker
from tests.support.servers import RabbitMQ, free_port
from workers import doctor
from workers.users.owed import LISTED

ROLES = registry().role_names
SHELVES = "tests.support.shelves"

Examine = Callable[..., dict[str, Body]]


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    return lambda **parts: load_settings(environment={"ES_HOME": str(tmp_path / "home"), **parts})


@pytest.fixture
def examine(settings_of: Callable[..., Settings]) -> Examine:
    """The findings by part. Of several findings for one part it is the last."""
    return lambda **parts: {found["part"]: found for found in doctor.examine(settings_of(**parts))}


def problems(found: dict[str, Body]) -> dict[str, tuple[str, str]]:
    """State and code of every finding that is not ok."""
    return {part: (each["state"], each["code"]) for part, each in found.items() if each["state"] != "ok"}


# --- no problem ------------------------------------------------------------------------------


def test_every_part_of_an_embedded_system_is_ok_and_shows_its_version(
    examine: Examine, tmp_path: Path
) -> None:
    found = examine()

    assert list(found) == ["es", "home", "broker", "event store", "vault", "read models"]
    assert problems(found) == {}
    for part, file, schema in (
        ("event store", "events.db", 3),
        ("vault", "vault.db", 4),
        ("read models", "read.db", 4),
    ):
        assert found[part]["version"].startswith("SQLite 3.")
        assert found[part]["schema_version"] == schema
        assert str(tmp_path / "home" / file) in found[part]["detail"]


def test_postgresql_is_shown_with_version_schema_and_clock(
    examine: Examine, postgres_url: str, tmp_path: Path
) -> None:
    kek = tmp_path / "kek"
    kek.touch(0o600)
    kek.write_text(os.urandom(32).hex())
    found = examine(ES_DATABASE=postgres_url, ES_VAULT=postgres_url, ES_KEK_FILE=str(kek))

    for part, schema in (("vault", 5), ("read models", 4)):
        assert found[part]["state"] == "ok", found[part]
        assert found[part]["version"].startswith("PostgreSQL ")
        assert found[part]["schema_version"] == schema
        assert abs(found[part]["clock_offset_s"]) < 30, "it is this machine's own clock"


# --- a part fails ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "variable", "url"),
    [
        ("broker", "ES_BROKER", "amqp://es:s3cret@127.0.0.1:{port}/"),
        ("event store", "ES_STORE", "esdb://admin:s3cret@127.0.0.1:{port}?Tls=false"),
        ("read models", "ES_DATABASE", "postgresql://es:s3cret@127.0.0.1:{port}/es"),
    ],
)
def test_an_unavailable_server_is_named_and_the_other_parts_are_examined(
    examine: Examine, part: str, variable: str, url: str
) -> None:
    examine()  # creates the vault: that needs a store that confirms that it contains no users
    port = free_port()

    found = examine(**{variable: url.format(port=port)})

    assert problems(found) == {part: ("failed", "unavailable")}
    assert str(port) in found[part]["detail"]
    assert found[part]["next"]
    assert "s3cret" not in json.dumps(found)


@pytest.mark.parametrize(("part", "name"), [("event store", "events.db"), ("vault", "vault.db")])
def test_a_missing_file_is_named_and_no_empty_one_takes_its_place(
    examine: Examine, tmp_path: Path, part: str, name: str
) -> None:
    examine()
    file = tmp_path / "home" / name
    file.unlink()

    found = examine()

    assert problems(found) == {part: ("failed", "unavailable")}
    assert f"{file} is missing" in found[part]["detail"]
    assert not file.exists()


def test_missing_read_models_are_computed_again(examine: Examine, tmp_path: Path) -> None:
    examine()
    (tmp_path / "home" / "read.db").unlink()

    assert problems(examine()) == {}


def test_a_read_only_postgresql_is_found(examine: Examine, postgres_url: str) -> None:
    assert examine(ES_DATABASE=postgres_url)["read models"]["state"] == "ok"

    found = examine(ES_DATABASE=f"{postgres_url}&options=-c%20default_transaction_read_only%3Don")

    assert problems(found) == {"read models": ("failed", "unavailable")}
    assert "read-only" in found["read models"]["detail"]
    assert "target_session_attrs=read-write" in found["read models"]["next"]


def test_a_silent_server_is_named_and_the_other_parts_are_examined(examine: Examine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = examine(ES_BROKER=f"amqp://guest:guest@127.0.0.1:{silent.getsockname()[1]}/")

    assert problems(found) == {"broker": ("failed", "unavailable")}
    assert "too slow to answer" in found["broker"]["detail"]


def test_a_crashed_check_is_a_finding_and_the_other_parts_are_examined(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_: Settings) -> None:
        raise LookupError("canary-2b77")

    monkeypatch.setattr(versions, "store_version", crash)

    found = examine()

    assert problems(found) == {"event store": ("failed", "internal")}
    assert "LookupError" in found["event store"]["detail"]
    assert "canary" not in json.dumps(found)


BROKEN = "from domain.kernel.feature import Feature, Role\nFEATURE = Feature(name='broken', {})"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "No module named 'broken_feature'"),
        ("raise LookupError('no licence')", "LookupError: no licence"),
        ("", "FEATURE"),
        (BROKEN.format("roles=(Role('users'),)"), "the role 'users'"),
        (BROKEN.format("model='no_such_model'"), "no_such_model"),
        (BROKEN.format("roles=(Role('x', 'no_such_service'),)"), "no_such_service"),
        (BROKEN.format("queries=('no_such_queries',)"), "no_such_queries"),
    ],
    ids=["missing", "raises", "no feature", "taken name", "no model", "no service", "no queries"],
)
def test_a_feature_that_cannot_be_used_is_named_and_the_other_parts_are_examined(
    examine: Examine,
    settings_of: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str | None,
    reason: str,
) -> None:
    if source is not None:
        (tmp_path / "broken_feature.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_feature", raising=False)
    registry.cache_clear()
    examine()
    with closing(wiring.open_vault(settings_of())) as vault:
        vault.save_checkpoint(LISTED, History(41))

    found = examine(ES_FEATURES=f"broken_feature,{SHELVES}")

    part = "feature broken_feature"
    assert problems(found) == {
        part: ("failed", "invalid-setting"),
        "history": ("failed", "store-behind"),
    }
    assert set(found) >= {"es", "home", "broker", "event store", "vault", "read models"}
    assert reason in found[part]["detail"]
    assert "ES_FEATURES" in found[part]["next"]


def test_features_that_can_be_used_are_no_problem(examine: Examine) -> None:
    assert problems(examine(ES_FEATURES=SHELVES)) == {}


def test_of_two_features_of_one_name_the_second_is_the_problem(
    examine: Examine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copied_shelves.py").write_text(f"from {SHELVES} import *")
    monkeypatch.syspath_prepend(tmp_path)

    found = examine(ES_FEATURES=f"{SHELVES} copied_shelves")

    assert problems(found) == {"feature copied_shelves": ("failed", "invalid-setting")}
    assert "the feature 'shelves'" in found["feature copied_shelves"]["detail"]


def test_an_event_store_that_went_back_is_found(
    examine: Examine, settings_of: Callable[..., Settings]
) -> None:
    assert "history" not in examine()
    with closing(wiring.open_vault(settings_of())) as vault:
        vault.save_checkpoint(LISTED, History(41))

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


def test_a_file_with_a_newer_schema_is_found(examine: Examine, tmp_path: Path) -> None:
    examine()
    apsw.Connection(str(tmp_path / "home" / "read.db")).pragma("user_version", 99)

    found = examine()["read models"]

    assert found["state"] == "failed"
    assert "schema version 99" in found["detail"]
    assert "upgrade" in found["next"]


# --- warnings --------------------------------------------------------------------------------


def test_a_sqlite_that_can_corrupt_its_files_is_a_warning(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.45.1")

    found = examine()["event store"]

    assert (found["state"], found["version"]) == ("warning", "SQLite 3.45.1")
    assert "corrupt" in found["detail"]
    assert "apsw" in found["next"]


def test_a_disk_that_is_nearly_full_is_a_warning(
    examine: Examine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "FREE_DISK_WARNING_BYTES", 1 << 62)

    found = examine()["home"]

    assert found["state"] == "warning"
    assert str(tmp_path / "home") in found["detail"]
    assert "Free disk space" in found["next"]


def test_a_postgresql_with_a_wrong_clock_is_a_warning(
    examine: Examine, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "now_us", lambda: time.time_ns() // 1000 - 3_600_000_000)

    found = examine(ES_DATABASE=postgres_url)["read models"]

    assert found["state"] == "warning"
    assert 3500 < found["clock_offset_s"] < 3700
    assert "NTP" in found["next"]


def test_a_broker_is_named_with_its_version(examine: Examine, rabbitmq: RabbitMQ) -> None:
    with rabbit_broker(rabbitmq, ROLES) as url:
        found = examine(ES_BROKER=url)

    assert found["broker"]["state"] == "ok", found["broker"]
    assert found["broker"]["version"].startswith("RabbitMQ ")


# --- EventStoreDB ----------------------------------------------------------------------------


@contextmanager
def info_page(said: object, *, ahead_s: float = 0) -> Iterator[int]:
    """Serve the `/info` page of EventStoreDB, which the test node (gRPC only) does not have; its port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            raw = json.dumps(said).encode()
            self.send_response_only(200)
            self.send_header("Date", formatdate(time.time() + ahead_s, usegmt=True))
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            """Keep the access log out of pytest's output."""

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
def test_eventstoredb_is_shown_with_version_and_licence(
    settings_of: Callable[..., Settings], said: object, name: str, licence: str
) -> None:
    with info_page(said) as port:
        found = versions.store_version(settings_of(ES_STORE=f"esdb://127.0.0.1:{port}?Tls=false"))

    assert found.name == name
    assert found.licence.startswith(licence)


@pytest.mark.parametrize("said", [{}, [], {"esVersion": "next"}, {"esVersion": 23}, "hello"])
def test_an_eventstoredb_without_a_version_is_no_failure(
    settings_of: Callable[..., Settings], said: object
) -> None:
    with info_page(said) as port:
        found = versions.store_version(settings_of(ES_STORE=f"esdb://127.0.0.1:{port}?Tls=false"))

    assert "doesn't say" in found.name
    assert "BSD-3-Clause up to 23.10" in found.licence


@pytest.mark.parametrize(
    ("ahead_s", "least_s", "most_s"), [(0, 0, 0), (3600, 3580, 3600), (-3600, -3600, -3580)]
)
def test_the_clock_of_eventstoredb_is_compared_to_a_second(
    settings_of: Callable[..., Settings], ahead_s: float, least_s: float, most_s: float
) -> None:
    with info_page({"esVersion": "23.10.7"}, ahead_s=ahead_s) as port:
        found = versions.store_version(settings_of(ES_STORE=f"esdb://127.0.0.1:{port}?Tls=false"))

    assert found.clock_offset_us is not None
    assert least_s <= found.clock_offset_us / 1e6 <= most_s


def test_a_deep_check_that_cannot_go_on_keeps_what_it_found(settings_of: Callable[..., Settings]) -> None:
    settings = settings_of()
    doctor.examine(settings)  # creates the files
    (settings.home / "read.db").write_bytes(b"x" * 4096)
    said: list[str] = []

    failed = [each for each in doctor.examine(settings, tell=said.append) if each["state"] == "failed"]

    assert [each["part"] for each in failed] == ["read models", "read models", "deep check"]
    assert {each["code"] for each in failed} == {"damaged"}
    assert said[0] == "examining the file of the event store"
