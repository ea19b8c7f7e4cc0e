"""An outside service holds data of users. Erasing a user blanks it in rows, states, histories and files, also after a rebuild."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.test_nothing_personal_on_disk import found_in, found_in_parts
from tests.support.processes import ROOT
from tests.support.profiles import Profile, a_system
from tests.support.system import System
from tests.support.terminal import on_terminal

NAME, LEASED, HANDED = (
    "Canária Ünverwechselbar",
    "Canária Mieterin Obergeschoß",
    "Canária Nachfolgend Genannt",
)
EMAIL = "canary-lessee@example.com"
OTHER = "Otto Bleibt"
CANARIES = (NAME, LEASED, HANDED, EMAIL)

pytestmark = [
    pytest.mark.own_store("the events of the feature are unknown to systems without it"),
    pytest.mark.over(
        "embedded", because="it reads the files, and the parts are tested over the other profiles"
    ),
]


@pytest.fixture(scope="module")
def shared(profile: Profile, request: pytest.FixtureRequest) -> Iterator[System]:
    """A running system with leases of users."""
    with a_system(profile, request) as made:
        made.environment |= {"ES_FEATURES": "tests.support.leases", "PYTHONPATH": str(ROOT)}
        yield made.up()


def signed(system: System, tenant_id: str, tenant: str) -> dict[str, Any]:
    words = ("--tenant-id", tenant_id, "--tenant", tenant, "--flat", "attic", "--json")
    answer = system.es("leases", "sign", *words).ok().object
    assert answer.keys() == {"command_id", "lease_id", "version", "position"}
    return answer


def tenants(system: System) -> dict[str, str | None]:
    rows = system.es("leases", "list", "--fresh", "--json").ok().objects
    return {row["lease_id"]: row["tenant"] for row in rows}


def streams_of(system: System, person: str) -> list[str]:
    rows = system.es("streams", "list", "--person", person, "--json").ok().objects
    return [row["stream"] for row in rows]


def test_an_erasure_reaches_the_data_of_a_person_in_every_service(shared: System) -> None:
    canary, other = shared.create(EMAIL, NAME), shared.create("otto@example.com", OTHER)
    kept = signed(shared, canary, LEASED)["lease_id"]
    taken_over = signed(shared, other, OTHER)["lease_id"]
    shared.es("leases", "hand-over", taken_over, canary, HANDED).ok()
    assert tenants(shared) == {kept: LEASED, taken_over: HANDED}
    assert shared.es("leases", "history", taken_over, "--json").ok().objects[1]["data"]["to_name"] == HANDED

    mine = [f"lease-{kept}", f"lease-{taken_over}", f"user-{canary}"]
    assert streams_of(shared, canary) == mine
    planned = shared.es("gdpr", "erase", canary, "--dry-run", "--json").ok().object
    assert (planned["streams"], planned["email_claims"], planned["erased"]) == (3, 1, False)
    assert shared.get(canary)["name"] == NAME, "a dry run changes nothing"
    asked = on_terminal(shared, "gdpr", "erase", canary, typed=b"n\n").out
    assert "in 3 streams, 1 e-mail address" in asked

    shared.erase(canary)

    _is_blank(shared, kept, taken_over)
    refused = ("leases", "sign", "--tenant-id", canary, "--tenant", LEASED, "--flat", "x")
    assert f"person {canary} is erased" in shared.es(*refused).failed(1).err
    assert streams_of(shared, canary) == mine, "what was erased is still found"
    for projection in ("leases", "person_streams_lease"):
        shared.es("projections", "rebuild", projection).ok()
    _is_blank(shared, kept, taken_over)
    assert shared.es("doctor", "--deep").ok()
    shared.es("down").ok()
    assert found_in(shared.root, CANARIES) == []
    assert found_in_parts(shared, CANARIES) == []
    shared.up()
    _is_blank(shared, kept, taken_over)


def _is_blank(system: System, kept: str, taken_over: str) -> None:
    """Nothing shows the person, and what is of others is shown."""
    assert tenants(system) == {kept: None, taken_over: None}
    history = system.es("leases", "history", taken_over, "--json").ok().objects
    assert [event["data"].get("from_name") for event in history] == [None, OTHER]
    assert history[1]["data"]["to_name"] is None
    everything = [
        system.es("leases", "get", kept, "--json").ok().out,
        system.es("leases", "history", kept, "--json").ok().out,
        system.es("leases", "get", kept, "--version", "0", "--json").ok().out,
        system.es("streams", "read", f"lease-{kept}", "--json").ok().out,
    ]
    assert [
        canary for canary in CANARIES for each in everything if canary in json.dumps(each, ensure_ascii=False)
    ] == []


def test_a_repeat_of_a_creation_is_the_same_instance(shared: System) -> None:
    tenant = shared.create("repeats@example.com", "Repeats")
    first = signed(shared, tenant, "Repeats")
    words = ("--tenant-id", tenant, "--tenant", "Repeats", "--flat", "attic", "--json")

    shared.kill("leases")
    again = shared.retry("leases", "sign", *words, "--command-id", first["command_id"]).object

    assert again == first
    assert streams_of(shared, tenant) == [f"lease-{first['lease_id']}", f"user-{tenant}"]
