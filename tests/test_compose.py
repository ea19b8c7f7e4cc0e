"""The compose files and the image: what operators run.

The files follow the Compose specification and the program's expectations, alone and merged.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from ruamel.yaml import YAML

from domain.features import registry
from scripts.compose import FORMS, with_roles
from scripts.generate import generated

ROOT = Path(__file__).parents[1]
ROLES = [role.name for role in registry().roles if not role.needs_process]
OURS = (*ROLES, "es")
SERVERS = ("rabbitmq", "eventstore", "postgres")
NODES = {part: (part, f"{part}2", f"{part}3") for part in ("rabbitmq", "eventstore")}
REPLACED = {"command", "entrypoint", "test"}  # lists that Compose does not concatenate


def load(name: str) -> Any:
    return YAML(typ="safe").load(ROOT / name)


def merged(below: Any, above: Any) -> Any:
    """`above` merged into `below` as Compose does it: mappings by key, lists concatenated."""
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {
            key: value if key in REPLACED else merged(below.get(key), value) for key, value in above.items()
        }
    if isinstance(below, list) and isinstance(above, list):
        return [*below, *above]
    return above


VARIANTS = {
    "one host": load("docker-compose.yml"),
    "cluster": merged(load("docker-compose.yml"), load("docker-compose.cluster.yml")),
}
CLUSTER: dict[str, Any] = VARIANTS["cluster"]["services"]


@pytest.fixture(params=VARIANTS)
def services(request: pytest.FixtureRequest) -> Any:
    return VARIANTS[request.param]["services"]


# --- the specification -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def specification() -> Any:
    packaged = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return json.loads(packaged.read_text())


@pytest.mark.parametrize("file", [*map(load, FORMS), VARIANTS["cluster"]], ids=[*FORMS, "merged"])
def test_a_compose_file_follows_the_specification(file: object, specification: Any) -> None:
    jsonschema.validate(file, specification)


def test_a_misspelt_key_is_found(specification: Any) -> None:
    broken = load("docker-compose.yml")
    broken["services"]["users"]["depend_on"] = {}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, specification)


# --- the services of the roles ---------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_a_new_role_gets_a_service_and_the_rest_stays(name: str) -> None:
    text = generated()[name]

    extended = with_roles(text, FORMS[name], [*ROLES, "wallets"])

    before, after = (YAML(typ="safe").load(source)["services"] for source in (text, extended))
    assert list(after) == [*ROLES, "wallets", *list(before)[len(ROLES) :]]
    assert {role: after[role] for role in before} == before
    assert with_roles(extended, FORMS[name], ROLES) == text


def test_a_compose_file_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="marks are missing"):
        with_roles("services:\n", FORMS["docker-compose.yml"], ROLES)


def test_every_role_has_a_service_that_runs_and_restarts_it(services: dict[str, Any]) -> None:
    for role in ROLES:
        assert services[role]["command"] == ["workers", "run", role]
        assert services[role]["restart"] == "unless-stopped"
        assert "healthcheck" not in services[role], "another part's outage must not restart a worker"


def test_exactly_one_service_builds_the_image_and_none_pulls_it(services: dict[str, Any]) -> None:
    assert [name for name, service in services.items() if "build" in service] == ["ids"]
    for name in OURS:
        assert (services[name]["image"], services[name]["pull_policy"]) == ("es:latest", "never")


def test_workers_wait_for_healthy_parts_and_may_be_scaled(services: dict[str, Any]) -> None:
    healthy = dict.fromkeys(SERVERS, "service_healthy")
    for service in (services[name] for name in OURS):
        assert {part: how["condition"] for part, how in service["depends_on"].items()} == healthy
        assert "container_name" not in service, "a named container cannot be scaled"
        assert not service.get("ports"), "two containers cannot have one port"


def test_every_service_of_ours_has_the_key_and_the_same_urls(services: dict[str, Any]) -> None:
    for name in OURS:
        assert services[name]["secrets"] == ["kek"]
        assert services[name]["environment"] == services["users"]["environment"]
        assert services[name]["environment"]["ES_KEK_FILE"] == "/run/secrets/kek"
    for name in services.keys() - OURS:
        assert "secrets" not in services[name], f"{name} must not have the key-encryption key"


# --- servers ---------------------------------------------------------------------------------


def test_every_server_has_a_health_check_and_waits_for_no_other(services: dict[str, Any]) -> None:
    for name in services.keys() - OURS:
        assert services[name]["healthcheck"]["test"], name
        # A new RabbitMQ node is not healthy before it has found a second one: a node that waits for it never starts.
        assert "depends_on" not in services[name], name


def test_the_health_check_of_postgresql_connects_by_address(services: dict[str, Any]) -> None:
    # The server that the image starts to prepare a new database listens on the socket only.
    assert "--host 127.0.0.1" in services["postgres"]["healthcheck"]["test"]


def test_every_eventstoredb_keeps_within_its_memory(services: dict[str, Any]) -> None:
    chunk_bytes = (256 << 20) + 256  # with header and footer; a smaller cache holds no chunk
    for name, service in services.items():
        if not name.startswith("eventstore"):
            continue
        environment = service["environment"]
        limit = int(service["mem_limit"].removesuffix("g")) << 30
        percent = environment["DOTNET_GCHeapHardLimitPercent"]
        cache = int(environment["EVENTSTORE_CHUNKS_CACHE_SIZE"])
        assert percent.startswith("0x"), ".NET reads hexadecimal; a reader would take it for decimal"
        assert cache == 0 or cache >= chunk_bytes
        assert limit * int(percent, 16) // 100 + cache < limit, name


def test_no_password_is_written_down() -> None:
    for name in FORMS:
        text = (ROOT / name).read_text()
        assert "PASS: es" not in text
        assert "${ES_PASSWORD" in text


# --- the cluster -----------------------------------------------------------------------------


def test_the_cluster_has_three_nodes_of_each_server() -> None:
    for nodes in NODES.values():
        assert set(nodes) <= CLUSTER.keys()
        assert len({CLUSTER[node]["image"] for node in nodes}) == 1
        mounts = [volume.split(":")[0] for node in nodes for volume in CLUSTER[node]["volumes"]]
        volumes = [mount for mount in mounts if not mount.startswith("./")]
        assert len(volumes) == len(set(volumes)), "two nodes cannot share a folder"
    assert CLUSTER["users"]["environment"]["ES_STORE"].count(":2113") == 3


def test_rabbitmq_nodes_find_each_other_by_host_name() -> None:
    configuration = (ROOT / "docker-compose.rabbitmq.conf").read_text()

    assert set(re.findall(r"= rabbit@(\w+)", configuration)) == {
        CLUSTER[node]["hostname"] for node in NODES["rabbitmq"]
    }
    for node in NODES["rabbitmq"]:
        assert any("docker-compose.rabbitmq.conf:" in volume for volume in CLUSTER[node]["volumes"])
        names = {node, *CLUSTER[node]["networks"]["default"]["aliases"]}
        assert {CLUSTER[node]["hostname"], "rabbitmq"} <= names, "nodes need the host name, clients one name"


def test_the_cookie_of_the_nodes_is_no_password_of_clients() -> None:
    for node in NODES["rabbitmq"]:
        environment = CLUSTER[node]["environment"]
        assert environment["RABBITMQ_ERLANG_COOKIE"] == "${ES_RABBITMQ_COOKIE:?set it in .env}"
        assert "ES_RABBITMQ_COOKIE" not in environment["RABBITMQ_DEFAULT_PASS"]


def test_every_node_of_eventstoredb_knows_the_two_others() -> None:
    for node in NODES["eventstore"]:
        environment = CLUSTER[node]["environment"]
        others = {f"{other}:2113" for other in NODES["eventstore"] if other != node}
        assert set(environment["EVENTSTORE_GOSSIP_SEED"].split(",")) == others
        assert environment["EVENTSTORE_NODE_HOST_ADVERTISE_AS"] == node
        assert environment["EVENTSTORE_CLUSTER_SIZE"] == "3"


def test_the_cluster_file_changes_known_services_or_adds_whole_ones() -> None:
    base, cluster = (load(name)["services"] for name in FORMS)

    for name, service in cluster.items():
        assert name in base or "image" in service, f"{name} is neither an overlay nor a service of its own"


def test_the_example_of_kurrentdb_has_the_settings_of_eventstoredb_and_its_folders() -> None:
    top = (ROOT / "docker-compose.yml").read_text().partition("\nname:")[0]
    lines = top.partition("#     services:\n")[2].splitlines()
    example = YAML(typ="safe").load("\n".join(["services:", *(line[6:] for line in lines)]))

    ours, theirs = VARIANTS["one host"]["services"]["eventstore"], example["services"]["eventstore"]
    known = {
        name.replace("KURRENTDB_", "EVENTSTORE_"): value for name, value in theirs["environment"].items()
    }
    assert known.items() <= ours["environment"].items()
    assert ours["environment"].keys() - known.keys() == {"DOTNET_GCHeapHardLimitPercent"}
    assert set(example["volumes"]) == {volume.split(":")[0] for volume in theirs["volumes"]}


# --- the first run and the image -------------------------------------------------------------


def first_run() -> str:
    """The commands at the top of docker-compose.yml."""
    top = (ROOT / "docker-compose.yml").read_text().partition("\nname:")[0]
    return "\n".join(line[4:] for line in top.splitlines() if re.match(r"#   \S", line))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_the_first_run_makes_key_and_passwords_once(tmp_path: Path) -> None:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("docker", "sudo"):
        (bin_ / name).write_text(f'#!/bin/sh\necho "{name} $*"\n')
        (bin_ / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"}

    def run() -> str:
        words = ["sh", "-c", first_run()]
        return subprocess.run(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True).stdout

    printed = run().splitlines()
    made = {name: (tmp_path / name).read_text() for name in ("secrets/kek", ".env")}
    run()

    assert printed[:3] == [
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
def test_a_page_shows_the_same_first_run(page: str) -> None:
    assert f"```sh\n{first_run()}\n```" in (ROOT / page).read_text()


def test_the_key_belongs_to_the_user_of_the_image() -> None:
    [uid] = re.findall(r"useradd .*--uid (\d+)", (ROOT / "Dockerfile").read_text())

    assert f"chown {uid} secrets/kek" in first_run()


def test_the_image_is_built_only_from_the_files_that_it_copies() -> None:
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]

    assert rules[0] == "*", "keys, passwords, .git and .venv stay out because everything does"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(" ".join(copies).split())
