"""docs/operations.md: every URL is accepted, every command exists, those of hints too, every script and unit is sound."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from adapters.postgres import connection as postgres
from adapters.rabbitmq import url as rabbitmq
from adapters.settings import Settings, load_settings
from cli.main import app
from domain.features import registry
from workers.runtime import supervisor

ROOT = Path(__file__).parents[1]
PACKAGES = ("adapters", "cli", "domain", "es", "workers")
MANUAL = (ROOT / "docs" / "operations.md").read_text()
Accept = Callable[[str, str], Settings]


def _check_esdb(url: str) -> object:
    from adapters.eventstoredb.url import checked  # here: it needs an extra

    return checked(url)


CHECKS: dict[str, tuple[str, Callable[[str], object]]] = {
    "amqp": ("ES_BROKER", rabbitmq.parameters_of),
    "esdb": ("ES_STORE", _check_esdb),
    "postgresql": ("ES_VAULT", postgres.parse_url),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", MANUAL, re.MULTILINE | re.DOTALL)


# --- URLs ------------------------------------------------------------------------------------


def settings_of_the_table() -> list[tuple[str, str]]:
    """Every setting and URL of the table under "More than one machine"."""
    table = MANUAL.partition("## More than one machine\n")[2].partition("\n###")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
    return [
        (re.findall(r"ES_\w+", row[2])[0], url)
        for row in rows[2:]
        for url in re.findall(r"`([a-z+]+://[^`]+)`", row[3])
    ]


@pytest.fixture
def accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Accept:
    """Checks a URL as the settings and its adapter do, and returns the settings."""
    # The URLs name files that are missing here.
    monkeypatch.setattr(rabbitmq, "_tls_context", lambda files: ssl.create_default_context())

    def accept(setting: str, url: str) -> Settings:
        settings = load_settings(environment={"ES_HOME": str(tmp_path), setting: url})
        _, check = CHECKS[re.split(r"s?:|\+", url)[0]]
        check(url)
        return settings

    return accept


@pytest.mark.parametrize(("setting", "url"), settings_of_the_table())
def test_a_url_of_the_table_is_accepted(setting: str, url: str, accepted: Accept) -> None:
    assert getattr(accepted(setting, url), setting.removeprefix("ES_").lower()) == url


def test_every_other_url_is_accepted(accepted: Accept) -> None:
    found = re.findall(r"`((amqp|esdb|postgresql)\S*://[^\s`…]+)`", MANUAL)

    assert {scheme for _, scheme in found} == CHECKS.keys()
    for url, scheme in found:
        accepted(CHECKS[scheme][0], url)


def test_the_table_has_every_part() -> None:
    settings = {setting for setting, _ in settings_of_the_table()}

    assert settings == {"ES_BROKER", "ES_STORE", "ES_DATABASE", "ES_VAULT"}


# --- commands --------------------------------------------------------------------------------


def test_every_command_exists_with_its_options() -> None:
    starts = r"(?:^|\$\(|run --rm |--no-deps |/opt/es/bin/)es ([a-z][^'|&;#\n)]*)"
    code = [*blocks("sh"), *re.findall(r"`([^`\n]+)`", MANUAL)]
    typed = [words for text in code for words in re.findall(starts, text, re.MULTILINE)]

    assert len(typed) > 20
    assert [line for line in typed if not _exists(line)] == []


def test_every_command_of_a_hint_exists_with_its_options() -> None:
    sources = [path.read_text() for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")]
    named = {line for text in sources for line in re.findall(r"`es ([^`\n]+)`", text)}

    assert len(named) > 20
    assert [line for line in named if not _exists(line)] == []


def _exists(line: str) -> bool:
    """Whether the words after `es` are a group, or a command with these options. Words such as ID, {role} and … stand for values."""
    command: Any = get_command(app)
    words = line.split()
    while words and hasattr(command, "list_commands"):
        word = words.pop(0)
        if word == "--help" or not re.fullmatch(r"[a-z-]+", word):
            return True
        if word in {option for parameter in command.params for option in parameter.opts}:
            continue
        command = command.get_command(None, word)
    known = {option for parameter in getattr(command, "params", ()) for option in parameter.opts}
    return command is not None and {word for word in words if word[:1] == "-" < word} <= {*known, "--help"}


def test_a_missing_command_or_option_is_found() -> None:
    assert _exists("dead show ROLE")
    assert _exists("--debug doctor")
    assert not _exists("dead display ROLE")
    assert not _exists("dead show --everything")


@pytest.mark.parametrize("script", blocks("sh"))
def test_a_script_is_sound_shell(script: str) -> None:
    subprocess.run(["sh", "-n", "-c", script], check=True)


def test_a_backup_of_eventstoredb_can_be_restored_as_written(tmp_path: Path) -> None:
    inside = re.compile(r"es:latest -ec '(.*?)'", re.DOTALL)
    scripts = [script for block in blocks("sh") for script in inside.findall(block)]
    [copy] = [script for script in scripts if "find index" in script]
    [restore] = [script for script in scripts if "rm -rf" in script]
    data, backup, restored = (tmp_path / name for name in ("data", "backup", "restored"))
    for folder in (data / "index" / "stream-existence", backup, restored):
        folder.mkdir(parents=True)
    files = [
        *("index/indexmap", "index/stream-existence/filter.chk", "writer.chk", "chaser.chk", "truncate.chk"),
        "chunk-000000.000000",
    ]
    for name in files:
        (data / name).write_text(name)
    (restored / "chunk-000001.000000").write_text("of the lost part")

    def run(script: str, volume: Path) -> None:
        assert set(re.findall(r"(?<=\s)/\w+", script)) == {"/data", "/backup"}, "it would touch this machine"
        script = script.replace("/data", str(volume)).replace("/backup", str(backup))
        subprocess.run(["sh", "-ec", script], check=True)

    run(copy, data)
    run(restore, restored)

    found = {
        str(file.relative_to(restored)): file.read_text() for file in restored.rglob("*") if file.is_file()
    }
    assert found == {name: name for name in files} | {"truncate.chk": "chaser.chk"}


# --- systemd ---------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", blocks("ini"))
def test_a_unit_starts_with_the_machine_and_after_every_failure(unit: str) -> None:
    lines = {
        "After=network-online.target",
        "Wants=network-online.target",
        "StartLimitIntervalSec=0",
        "Restart=always",
        "RestartSec=2",
        "StateDirectory=es",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "WantedBy=multi-user.target",
    }

    assert lines - set(unit.splitlines()) == set()


def test_the_unit_of_one_machine_waits_until_every_role_has_drained() -> None:
    unit = blocks("ini")[0]
    roles = re.findall(r"workers run (.+)", unit)[0].split()
    [wait_s] = re.findall(r"TimeoutStopSec=(\d+)", unit)

    assert roles == [role.name for role in registry().roles if not (role.needs_broker or role.needs_process)]
    assert int(wait_s) > supervisor.STOP_WAIT_S * len(roles)


def test_the_key_reaches_a_role_as_a_credential() -> None:
    unit = blocks("ini")[1].splitlines()

    assert "LoadCredential=kek:/etc/es/kek" in unit
    assert "Environment=ES_KEK_FILE=%d/kek" in unit
    assert "EnvironmentFile=/etc/es/es.env" in unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    names = ["es.service", "es@.service"]
    for name, unit in zip(names, blocks("ini"), strict=True):
        (tmp_path / name).write_text(unit.replace("/opt/es/bin/es", shutil.which("true") or ""))

    for name in (*names[:1], "es@users.service"):
        words = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or line.startswith("es")]
        assert (done.returncode, ours) == (0, [])
