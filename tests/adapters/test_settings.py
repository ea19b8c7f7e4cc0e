"""Settings: precedence and origins, meanings, errors that name the setting, and URLs without passwords."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from adapters.settings import Setting, Settings, load_settings, similar_setting
from domain.kernel.errors import InvalidInput

NAMES = ["broker", "store", "database", "vault", "kek_file", "autostart"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def load(
    home: Path, environment: Mapping[str, str] | None = None, *, file: str | bytes | None = None
) -> Settings:
    if file is not None:
        (home / "es.toml").write_bytes(file if isinstance(file, bytes) else file.encode())
    return load_settings(environment={"ES_HOME": str(home), **(environment or {})})


# --- precedence and origins --------------------------------------------------------------


def test_without_any_configuration_everything_is_embedded(home: Path) -> None:
    settings = load(home)

    assert (settings.broker, settings.store, settings.database, settings.vault) == (
        "local:",
        f"sqlite:{home}/events.db",
        f"sqlite:{home}/read.db",
        f"sqlite:{home}/vault.db",
    )
    assert settings.autostart is True
    assert settings.kek_file == home / "secrets" / "kek"
    assert settings.kek_is_ours is True
    assert (settings.run, settings.log) == (home / "run", home / "log")
    assert not settings.waits_for_servers


@pytest.mark.parametrize(
    ("name", "url"), [("STORE", "esdb://127.0.0.1:2113?tls=false"), ("VAULT", "postgresql://127.0.0.1/es")]
)
def test_a_worker_waits_for_servers_if_its_store_or_vault_is_one(home: Path, name: str, url: str) -> None:
    assert load(home, {f"ES_{name}": url, "ES_BROKER": "amqp://127.0.0.1"}).waits_for_servers


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"ES_HOME": "/x/y"}, "/x/y"),
        ({"XDG_DATA_HOME": "/data"}, "/data/es"),
        ({"ES_HOME": "/x/y", "XDG_DATA_HOME": "/data"}, "/x/y"),
        ({"ES_HOME": "", "XDG_DATA_HOME": "/data"}, "/data/es"),
        ({}, os.path.expanduser("~/.local/share/es")),
        ({"ES_HOME": "~/somewhere"}, os.path.expanduser("~/somewhere")),
    ],
)
def test_the_home_comes_from_the_environment_or_the_default(
    environment: dict[str, str], expected: str
) -> None:
    assert str(load_settings(environment=environment).home) == expected


def test_a_flag_overrides_the_environment() -> None:
    settings = load_settings(home_flag="/flagged", environment={"ES_HOME": "/x"})

    assert settings.home == Path("/flagged")
    assert settings.origins["home"] == Setting("/flagged", "flag")


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert load_settings(home_flag="some/../place", environment={}).home == tmp_path / "place"
    assert load_settings(environment={"ES_HOME": "place"}).home == tmp_path / "place"


def test_sqlite_paths_default_to_the_usual_file_and_are_relative_to_the_home(home: Path) -> None:
    settings = load(home, {"ES_STORE": "sqlite:", "ES_DATABASE": "sqlite:mine.db"})

    assert settings.store == f"sqlite:{home}/events.db"
    assert settings.database == f"sqlite:{home}/mine.db"


def test_the_environment_overrides_the_file_and_the_file_the_default(home: Path) -> None:
    file = 'store = "sqlite:/from/file"\nvault = "sqlite:/vault/from/file"\n'

    settings = load(home, {"ES_STORE": "sqlite:/from/environment"}, file=file)

    assert settings.store == "sqlite:/from/environment"
    assert settings.vault == "sqlite:/vault/from/file"
    assert settings.database == f"sqlite:{home}/read.db"
    assert settings.origins["store"] == Setting("sqlite:/from/environment", "ES_STORE")
    assert settings.origins["vault"] == Setting("sqlite:/vault/from/file", "es.toml")
    assert settings.origins["database"] == Setting(f"sqlite:{home}/read.db", "default")


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_can_be_a_variable_or_a_line_of_the_file(home: Path, name: str) -> None:
    value = {"broker": "local:", "kek_file": "/k", "autostart": "0"}.get(name, "sqlite:/there")

    assert load(home, {f"ES_{name.upper()}": value}).origins[name] == Setting(value, f"ES_{name.upper()}")
    assert load(home, file=f'{name} = "{value}"').origins[name] == Setting(value, "es.toml")


def test_an_empty_variable_counts_as_not_set(home: Path) -> None:
    settings = load(home, {"ES_STORE": "", "ES_KEK_FILE": ""}, file='store = "sqlite:/from/file"')

    assert settings.store == "sqlite:/from/file"
    assert settings.kek_is_ours is True


def test_settings_cannot_be_changed(home: Path) -> None:
    settings = load(home)

    with pytest.raises(FrozenInstanceError):
        settings.store = "sqlite:/elsewhere"  # type: ignore[misc]


def test_every_setting_has_an_origin(home: Path) -> None:
    assert set(load(home).origins) == {"home", "features", *NAMES}


# --- what a setting means --------------------------------------------------------------------


def test_a_configured_key_file_is_not_ours(home: Path) -> None:
    settings = load(home, {"ES_KEK_FILE": "~/mounted/kek"})

    assert settings.kek_file == Path("~/mounted/kek").expanduser()
    assert settings.kek_is_ours is False


OFF = ["0", "false", "False", "NO", "off"]


@pytest.mark.parametrize("off", OFF)
def test_a_variable_can_turn_autostart_off(home: Path, off: str) -> None:
    assert load(home, {"ES_AUTOSTART": off}).autostart is False


@pytest.mark.parametrize(
    ("value", "expected"),
    [*((f'"{off}"', False) for off in OFF), ("false", False), ("0", False), ("true", True)],
)
def test_the_file_can_turn_autostart_off(home: Path, value: str, expected: bool) -> None:
    assert load(home, file=f"autostart = {value}").autostart is expected


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["broker", "store", "database", "vault"])
@pytest.mark.parametrize("value", ["nonsense", "http://localhost", "SQLITE:", ":", "amqp:h", "esdb:h"])
def test_an_unknown_url_is_refused_with_name_and_origin(home: Path, name: str, value: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        load(home, {f"ES_{name.upper()}": value})

    assert refused.value.field == name
    assert f"ES_{name.upper()}" in str(refused.value)


def test_a_refused_url_is_not_shown_because_it_may_hold_a_password(home: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        load(home, {"ES_STORE": "mongodb://admin:canary-5f1d@localhost"})

    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("file", ["store = ", "[store\n", b"\xff\xfe", 'store = "a"\nstore = "b"'])
def test_a_file_that_is_not_toml_is_refused_with_its_name(home: Path, file: str | bytes) -> None:
    with pytest.raises(InvalidInput, match=r"es\.toml"):
        load(home, file=file)


def test_an_unknown_setting_is_refused_with_the_known_names(home: Path) -> None:
    with pytest.raises(InvalidInput, match="stroe") as refused:
        load(home, file='stroe = "sqlite:"')

    assert "'store'" in refused.value.hint
    assert "kek_file" in refused.value.hint


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("ES_BROKR", "ES_BROKER"),
        ("ES_STORE_URL", "ES_STORE"),
        ("ES_KEKFILE", "ES_KEK_FILE"),
        ("ES_JAVA_OPTS", ""),  # of Elasticsearch
        ("ES_HOST", ""),
    ],
)
def test_an_unknown_variable_is_reported_with_the_setting_that_it_resembles(
    home: Path, variable: str, meant: str
) -> None:
    loaded = load(home, {variable: "x", "ES_STORE": "sqlite:", "ES_TEST_PG_URL": "x", "es_broker": "x"})

    assert loaded.unknown == (variable,)
    assert similar_setting(variable) == meant


def test_an_unreadable_file_is_refused(home: Path) -> None:
    (home / "es.toml").mkdir()

    with pytest.raises(InvalidInput, match="cannot be read"):
        load(home)


def test_reading_settings_does_not_create_the_home(tmp_path: Path) -> None:
    assert load_settings(environment={"ES_HOME": str(tmp_path / "new")}).store.startswith("sqlite:")
    assert not (tmp_path / "new").exists()
