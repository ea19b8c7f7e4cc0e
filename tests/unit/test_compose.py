"""The compose files hold to the Compose specification and to what the program expects."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from domain.messages import ROLES

ROOT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "docker-compose.cluster.yml")


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(ROOT / name)
    return loaded


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


def test_every_role_has_a_service_that_runs_it() -> None:
    services = load("docker-compose.yml")["services"]

    assert {role: services[role]["command"] for role in ROLES} == {
        role: ["workers", "run", role] for role in ROLES
    }


def test_workers_start_when_every_part_is_healthy_and_may_be_scaled() -> None:
    services = load("docker-compose.yml")["services"]
    for role in ROLES:
        service = services[role]
        assert {name: how["condition"] for name, how in service["depends_on"].items()} == dict.fromkeys(
            ("rabbitmq", "eventstore", "postgres"), "service_healthy"
        )
        assert "container_name" not in service, "a named container can't be scaled"
        assert not service.get("ports"), "two containers can't have one port"
    assert all("healthcheck" in services[part] for part in ("rabbitmq", "eventstore", "postgres"))


def test_the_key_encryption_key_is_a_secret_and_no_password_is_written_down() -> None:
    compose = load("docker-compose.yml")

    assert compose["services"]["users"]["secrets"] == ["kek"]
    assert compose["services"]["users"]["environment"]["ES_KEK_FILE"] == "/run/secrets/kek"
    for name in FILES:
        text = (ROOT / name).read_text()
        assert "PASS: es" not in text
        assert "${ES_PASSWORD" in text


def test_the_cluster_has_three_nodes_of_each() -> None:
    services = load("docker-compose.cluster.yml")["services"]

    for part in ("rabbitmq", "eventstore"):
        assert {part, f"{part}2", f"{part}3"} <= set(services)
    assert services["users"]["environment"]["ES_STORE"].count(":2113") == 3


def test_the_cluster_overlays_only_services_that_exist_or_are_whole() -> None:
    base, cluster = (load(name)["services"] for name in FILES)

    for name, service in cluster.items():
        assert name in base or "image" in service, f"{name} is neither an overlay nor a service of its own"
