"""What operators run and read: the compose files, the image, and what docs/operations.md tells them to type.

The compose files hold to the Compose specification and to what the program expects, alone and laid over each other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from adapters.eventstoredb import event_store as eventstoredb
from adapters.postgres import database as postgres
from adapters.rabbitmq import url as rabbitmq
from adapters.settings import load_settings
from cli.main import app
from domain.features import ROLES
from workers.runtime import supervisor

ROOT = Path(__file__).parents[1]
FILES = ("docker-compose.yml", "docker-compose.cluster.yml")
SERVERS = ("rabbitmq", "eventstore", "postgres")
NODES = {part: (part, f"{part}2", f"{part}3") for part in ("rabbitmq", "eventstore")}
OURS = (*ROLES, "es")


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(ROOT / name)
    return loaded


REPLACED = {"command", "entrypoint", "test"}  # lists that Compose doesn't add up


def merged(below: Any, above: Any) -> Any:
    """`above` laid over `below` as Compose does it, for what is looked at here: mappings by key, lists added up."""
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {
            key: value if key in REPLACED else merged(below.get(key), value) for key, value in above.items()
        }
    if isinstance(below, list) and isinstance(above, list):
        return [*below, *above]
    return above


def laid_over() -> dict[str, Any]:
    """Both files as `docker compose -f … -f …` sees them."""
    both: dict[str, Any] = merged(*map(load, FILES))
    return both


VARIANTS = {"one host": lambda: load("docker-compose.yml"), "cluster": laid_over}


@pytest.fixture(params=VARIANTS)
def services(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = VARIANTS[request.param]()["services"]
    return found


@pytest.fixture(scope="module")
def specification() -> Any:
    packaged = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return json.loads(packaged.read_text())


@pytest.mark.parametrize("name", FILES)
def test_a_compose_file_holds_to_the_specification(name: str, specification: Any) -> None:
    jsonschema.validate(load(name), specification)


def test_a_misspelt_key_would_be_found(specification: Any) -> None:
    broken = load("docker-compose.yml")
    broken["services"]["users"]["depend_on"] = {}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, specification)


def test_both_files_laid_over_each_other_hold_to_the_specification(specification: Any) -> None:
    jsonschema.validate(laid_over(), specification)


# --- our services ----------------------------------------------------------------------------


def test_every_role_has_a_service_that_runs_it(services: dict[str, Any]) -> None:
    assert {role: services[role]["command"] for role in ROLES} == {
        role: ["workers", "run", role] for role in ROLES
    }


def test_exactly_one_service_builds_the_image_and_none_pulls_it(services: dict[str, Any]) -> None:
    assert [name for name, service in services.items() if "build" in service] == ["ids"]
    for name in OURS:
        assert (services[name]["image"], services[name]["pull_policy"]) == ("es:latest", "never")


def test_workers_start_when_every_part_is_healthy_and_may_be_scaled(services: dict[str, Any]) -> None:
    for name in OURS:
        service = services[name]
        assert {part: how["condition"] for part, how in service["depends_on"].items()} == dict.fromkeys(
            SERVERS, "service_healthy"
        )
        assert "container_name" not in service, "a named container can't be scaled"
        assert not service.get("ports"), "two containers can't have one port"


def test_a_worker_that_ends_is_restarted_and_no_check_of_other_parts_makes_it_unhealthy(
    services: dict[str, Any],
) -> None:
    for role in ROLES:
        assert services[role]["restart"] == "unless-stopped"
        assert "healthcheck" not in services[role]


def test_every_service_of_ours_has_the_key_and_the_same_urls(services: dict[str, Any]) -> None:
    for name in OURS:
        assert services[name]["secrets"] == ["kek"]
        assert services[name]["environment"] == services["users"]["environment"]
        assert services[name]["environment"]["ES_KEK_FILE"] == "/run/secrets/kek"
    for name in services.keys() - OURS:
        assert "secrets" not in services[name], f"{name} has no business with the key-encryption key"


# --- servers ---------------------------------------------------------------------------------


def test_every_server_has_a_health_check_and_waits_for_no_other(services: dict[str, Any]) -> None:
    for name in services.keys() - OURS:
        assert services[name]["healthcheck"]["test"], name
        # A new RabbitMQ node isn't healthy before it has found a second one: whoever waited for it would wait for ever.
        assert "depends_on" not in services[name], name


def test_postgresql_is_asked_by_address(services: dict[str, Any]) -> None:
    # The server that the image starts for itself, to prepare a new database, listens on the socket only.
    assert "--host 127.0.0.1" in services["postgres"]["healthcheck"]["test"][1]


def test_every_eventstoredb_keeps_within_its_memory(services: dict[str, Any]) -> None:
    chunk_bytes = (256 << 20) + 256  # with header and footer; a smaller cache holds no chunk at all
    for name, service in services.items():
        if not name.startswith("eventstore"):
            continue
        environment = service["environment"]
        limit = int(service["mem_limit"].removesuffix("g")) << 30
        heap = limit * int(environment["DOTNET_GCHeapHardLimitPercent"], 16) // 100  # .NET reads hexadecimal
        cache = int(environment["EVENTSTORE_CHUNKS_CACHE_SIZE"])
        assert environment["DOTNET_GCHeapHardLimitPercent"].startswith("0x"), (
            "others would read it as decimal"
        )
        assert cache == 0 or cache >= chunk_bytes
        assert heap + cache < limit, name


def test_no_password_is_written_down() -> None:
    for name in FILES:
        text = (ROOT / name).read_text()
        assert "PASS: es" not in text
        assert "${ES_PASSWORD" in text


# --- the cluster -----------------------------------------------------------------------------


def test_the_cluster_has_three_nodes_of_each() -> None:
    services = laid_over()["services"]

    for nodes in NODES.values():
        assert set(nodes) <= services.keys()
        assert len({services[node]["image"] for node in nodes}) == 1
        volumes = [volume.split(":")[0] for node in nodes for volume in services[node]["volumes"]]
        assert len(volumes) == len(set(volumes)), "two nodes can't have one folder"
    assert services["users"]["environment"]["ES_STORE"].count(":2113") == 3


def test_the_nodes_of_rabbitmq_find_each_other_by_their_host_names() -> None:
    both = laid_over()
    named = set(re.findall(r"= rabbit@(\w+)", both["configs"]["rabbitmq"]["content"]))

    assert named == {both["services"][node]["hostname"] for node in NODES["rabbitmq"]}
    for node in NODES["rabbitmq"]:
        service = both["services"][node]
        known_as = {node, *service["networks"]["default"]["aliases"]}
        assert {service["hostname"], "rabbitmq"} <= known_as, (
            "nodes by host name, clients by one name for all"
        )


def test_the_cookie_of_the_nodes_is_no_password_of_clients() -> None:
    services = laid_over()["services"]

    for node in NODES["rabbitmq"]:
        environment = services[node]["environment"]
        assert environment["RABBITMQ_ERLANG_COOKIE"] == "${ES_RABBITMQ_COOKIE:?set it in .env}"
        assert "ES_RABBITMQ_COOKIE" not in environment["RABBITMQ_DEFAULT_PASS"]


def test_every_node_of_eventstoredb_knows_the_two_others() -> None:
    services = laid_over()["services"]

    for node in NODES["eventstore"]:
        environment = services[node]["environment"]
        others = {f"{other}:2113" for other in NODES["eventstore"] if other != node}
        assert set(environment["EVENTSTORE_GOSSIP_SEED"].split(",")) == others
        assert environment["EVENTSTORE_NODE_HOST_ADVERTISE_AS"] == node
        assert environment["EVENTSTORE_CLUSTER_SIZE"] == "3"


def test_the_cluster_overlays_only_services_that_exist_or_are_whole() -> None:
    base, cluster = (load(name)["services"] for name in FILES)

    for name, service in cluster.items():
        assert name in base or "image" in service, f"{name} is neither an overlay nor a service of its own"


# --- the first run and the image -------------------------------------------------------------


def first_run() -> str:
    """The commands at the top of docker-compose.yml."""
    top = (ROOT / "docker-compose.yml").read_text().partition("\nname:")[0]
    return "\n".join(line[4:] for line in top.splitlines() if line.startswith("#   "))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_the_first_run_as_it_is_written_makes_key_and_passwords_once(tmp_path: Path) -> None:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("docker", "sudo"):
        (bin_ / name).write_text(f'#!/bin/sh\necho "{name} $*"\n')
        (bin_ / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"}

    def run() -> str:
        done = subprocess.run(
            ["sh", "-c", first_run()],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    said = run()
    made = {name: (tmp_path / name).read_text() for name in ("secrets/kek", ".env")}
    run()

    assert said.splitlines()[:3] == [
        "sudo chown 10001 secrets/kek",
        "docker compose build",
        "docker compose up --detach --wait --scale users=4",
    ]
    assert re.fullmatch(r"[0-9a-f]{64}\n", made["secrets/kek"])
    assert re.fullmatch(r"ES_PASSWORD=\w{32}\nES_RABBITMQ_COOKIE=\w{32}\n", made[".env"])
    for name, text in made.items():
        assert (tmp_path / name).read_text() == text, "a second run overwrote it"
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md"])
def test_the_first_run_is_the_same_wherever_it_is_told(page: str) -> None:
    assert f"```sh\n{first_run()}\n```" in (ROOT / page).read_text()


def test_the_key_belongs_to_the_user_of_the_image() -> None:
    [uid] = re.findall(r"useradd .*--uid (\d+)", (ROOT / "Dockerfile").read_text())

    assert f"chown {uid} secrets/kek" in first_run()


def test_the_image_is_built_from_what_it_copies_and_from_nothing_else() -> None:
    copied = {
        source
        for sources in re.findall(
            r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
        )
        for source in sources.split()
    }
    rules = [
        rule
        for rule in (ROOT / ".dockerignore").read_text().splitlines()
        if rule and not rule.startswith("#")
    ]

    assert rules[0] == "*", "keys, passwords, .git and .venv stay out because everything does"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied


# --- docs/operations.md ----------------------------------------------------------------------

MANUAL = (ROOT / "docs" / "operations.md").read_text()
CHECKS = {
    "amqp": ("ES_BROKER", rabbitmq.parameters_of),
    "esdb": ("ES_STORE", eventstoredb._checked),
    "postgresql": ("ES_VAULT", postgres._parse),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", MANUAL, re.MULTILINE | re.DOTALL)


def settings_of_the_table() -> list[tuple[str, str]]:
    """Every setting and URL of the table under "More than one machine"."""
    table = MANUAL.partition("## More than one machine\n")[2].partition("\n###")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
    return [
        (re.findall(r"ES_\w+", row[2])[0], url)
        for row in rows[2:]
        for url in re.findall(r"`([a-z+]+://[^`]+)`", row[3])
    ]


@pytest.mark.parametrize(("setting", "url"), settings_of_the_table())
def test_a_url_of_the_table_is_one_that_the_program_takes(
    setting: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "_tls", lambda files: ssl.create_default_context())  # the files aren't here
    settings = load_settings(environment={"ES_HOME": str(tmp_path), setting: url})
    _, check = CHECKS[re.split(r"s?:|\+", url)[0]]

    assert getattr(settings, setting.removeprefix("ES_").lower()) == url
    check(url)


def test_every_other_url_of_the_manual_is_one_that_the_program_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "_tls", lambda files: ssl.create_default_context())
    found = re.findall(r"`((amqp|esdb|postgresql)\S*://[^\s`…]+)`", MANUAL)

    assert {scheme for _, scheme in found} == CHECKS.keys()
    for url, scheme in found:
        setting, check = CHECKS[scheme]
        load_settings(environment={"ES_HOME": str(tmp_path), setting: url})
        check(url)


def test_the_table_has_every_part() -> None:
    assert {setting for setting, _ in settings_of_the_table()} == {
        "ES_BROKER",
        "ES_STORE",
        "ES_DATABASE",
        "ES_VAULT",
    }


def test_every_command_of_the_manual_exists_with_its_options() -> None:
    code = [*blocks("sh"), *re.findall(r"`([^`\n]+)`", MANUAL)]
    typed = [
        words
        for text in code
        for words in re.findall(
            r"(?:^|\$\(|run --rm |--no-deps |/opt/es/bin/)es ([a-z][^'|&;#\n)]*)", text, re.MULTILINE
        )
    ]

    assert len(typed) > 20
    for line in typed:
        command: Any = get_command(app)
        words = line.split()
        while words and hasattr(command, "list_commands"):  # a group
            word = words.pop(0)
            assert word in command.list_commands(None), f"no such command: es {line}"
            command = command.get_command(None, word)
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, f"no such option: es {line}"


@pytest.mark.parametrize("script", blocks("sh"))
def test_what_is_to_be_typed_is_sound_shell(script: str) -> None:
    subprocess.run(["sh", "-n", "-c", script], check=True)


def test_a_copy_of_eventstoredb_can_be_made_and_put_back_as_it_is_written(tmp_path: Path) -> None:
    scripts = [
        script for block in blocks("sh") for script in re.findall(r"es:latest -ec '(.*?)'", block, re.DOTALL)
    ]
    copy = next(script for script in scripts if "find index" in script)
    put_back = next(script for script in scripts if "rm -rf" in script)
    data, backup, restored = (tmp_path / name for name in ("data", "backup", "restored"))
    for folder in (data / "index" / "stream-existence", backup, restored):
        folder.mkdir(parents=True)
    files = (
        "index/indexmap",
        "index/stream-existence/filter.chk",
        "writer.chk",
        "chaser.chk",
        "truncate.chk",
    )
    for name in (*files, "chunk-000000.000000"):
        (data / name).write_text(name)
    (restored / "chunk-000001.000000").write_text("of the lost part")

    def run(script: str, volume: Path) -> None:
        assert set(re.findall(r"(?<=\s)/\w+", script)) == {"/data", "/backup"}, "it would touch this machine"
        script = script.replace("/data", str(volume)).replace("/backup", str(backup))
        subprocess.run(["sh", "-ec", script], check=True)

    run(copy, data)
    run(put_back, restored)

    found = {
        str(file.relative_to(restored)): file.read_text() for file in restored.rglob("*") if file.is_file()
    }
    assert found == {name: name for name in (*files, "chunk-000000.000000")} | {"truncate.chk": "chaser.chk"}


# --- systemd ---------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", blocks("ini"))
def test_a_unit_starts_with_the_machine_and_always_again(unit: str) -> None:
    for line in (
        "After=network-online.target",
        "Wants=network-online.target",
        "StartLimitIntervalSec=0",
        "Restart=always",
        "RestartSec=2",
        "StateDirectory=es",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "WantedBy=multi-user.target",
    ):
        assert line in unit.splitlines(), line


def test_the_unit_of_one_machine_waits_for_every_role_to_drain() -> None:
    unit = blocks("ini")[0]
    roles = re.findall(r"workers run (.+)", unit)[0].split()
    [wait_s] = re.findall(r"TimeoutStopSec=(\d+)", unit)

    assert roles == [role for role in ROLES if role != "relay"], "the relay needs a broker"
    assert int(wait_s) > supervisor._STOP_WAIT_S * len(roles)


def test_the_key_reaches_a_role_as_a_credential() -> None:
    unit = blocks("ini")[1].splitlines()

    assert "LoadCredential=kek:/etc/es/kek" in unit
    assert "Environment=ES_KEK_FILE=%d/kek" in unit
    assert "EnvironmentFile=/etc/es/es.env" in unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    names = ["es.service", "es@.service"]
    for name, unit in zip(names, blocks("ini"), strict=True):
        (tmp_path / name).write_text(unit.replace("/opt/es/bin/es", shutil.which("true") or ""))

    for name in (*names[:1], "es@users.service"):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=False,
        )
        ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or line.startswith("es")]
        assert (done.returncode, ours) == (0, [])
