"""The installed `es` without the extras: the embedded profile works, and a URL that needs one is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.system import System
from tests.support.waiting import eventually

pytestmark = pytest.mark.over("embedded", because="other profiles use the extras")

HIDE = """
from importlib.machinery import PathFinder

HIDDEN = {"esdbclient", "kurrentdbclient", "grpc", "google", "psycopg"}
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *given: None if name in HIDDEN else find(name, *given)
"""
"""A sitecustomize: these packages are not found, as if they were not installed."""
URLS = [
    ("ES_STORE", "esdb://127.0.0.1:1?tls=false", "eventstoredb"),
    ("ES_VAULT", "postgresql://127.0.0.1:1/es", "postgres"),
    ("ES_DATABASE", "postgresql://127.0.0.1:1/es", "postgres"),
]


@pytest.fixture
def bare(system: System, tmp_path: Path) -> System:
    """A system whose processes have no extras."""
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    system.environment["PYTHONPATH"] = str(tmp_path)
    return system


@pytest.mark.parametrize(("setting", "url", "extra"), URLS)
@pytest.mark.parametrize(
    "command", ["up", "users list", "workers run erasures", "workers run users projections"]
)
def test_workers_that_need_a_missing_extra_do_not_start(
    bare: System, command: str, setting: str, url: str, extra: str
) -> None:
    if command == "workers run erasures" and setting == "ES_DATABASE":
        command = "workers run projections"  # it uses the read models

    ran = bare.es(*command.split(), environment={setting: url})

    assert ran.code == 2, ran
    assert f"needs the extra {extra}; it is not installed" in ran.err
    assert f"-m pip install 'es[{extra}]'" in ran.err
    eventually(lambda: bare.processes() == [], "no worker is left")


def test_adopting_a_store_that_needs_a_missing_extra_is_refused(bare: System) -> None:
    ran = bare.es("adopt", "--yes", environment={"ES_STORE": URLS[0][1]})

    assert ran.code == 2, ran
    assert "-m pip install 'es[eventstoredb]'" in ran.err


@pytest.mark.parametrize(("setting", "url", "extra"), URLS)
def test_the_doctor_says_which_extra_is_missing(bare: System, setting: str, url: str, extra: str) -> None:
    parts = {"ES_STORE": "event store", "ES_VAULT": "vault", "ES_DATABASE": "read models"}
    ran = bare.es("doctor", "--json", environment={setting: url})

    findings = {finding["part"]: finding for finding in ran.objects}
    found = findings[parts[setting]]
    assert (found["state"], found["code"]) == ("failed", "invalid-setting")
    assert f"-m pip install 'es[{extra}]'" in found["next"]


def test_the_embedded_profile_needs_no_extra(bare: System) -> None:
    bare.up()
    user = bare.create()
    bare.caught_up()

    assert bare.get(user)["name"] == "Ada Lovelace"
    assert bare.es("doctor").ok().err == ""
    completed = {"_ES_COMPLETE": "complete_bash", "COMP_WORDS": "es users ren", "COMP_CWORD": "2"}
    assert bare.es(environment=completed).lines == ["rename"]
