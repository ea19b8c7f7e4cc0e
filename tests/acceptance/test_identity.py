"""Copied homes and strangers on one broker, with whole systems: no one's data is touched, and the reason is named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from domain.kernel.errors import EXIT_CODES, Kind
from tests.support.homes import copied_home
from tests.support.postgres import own_schema
from tests.support.profiles import a_system
from tests.support.system import System, new_root

DAMAGED, UNAVAILABLE = EXIT_CODES[Kind.DAMAGED], EXIT_CODES[Kind.UNAVAILABLE]
ADA = ("--name", "Ada", "--email", "ada@example.com")
TWICE = "it makes its own systems, over parts that it chooses"


@pytest.fixture
def another() -> Iterator[Callable[..., System]]:
    """Another home, over the given parts."""
    made: list[System] = []

    def of(parts: dict[str, str]) -> System:
        made.append(System(new_root(), parts=parts))
        return made[-1]

    yield of
    for system in made:
        system.close()
        shutil.rmtree(system.root, ignore_errors=True)


def copied(system: System, another: Callable[..., System], parts: dict[str, str]) -> System:
    """A copy of a home whose workers are stopped."""
    copy = another(parts)
    copy.home.mkdir(mode=0o700)
    copied_home(system.settings, copy.settings)
    return copy


@pytest.mark.over("embedded", because=TWICE)
def test_a_copied_home_does_not_erase_people_of_the_vault_that_it_still_names(
    another: Callable[..., System], postgres_database: str, tmp_path: Path, profile: object
) -> None:
    kek = tmp_path / "kek"
    kek.touch(0o600)
    kek.write_text(os.urandom(32).hex())
    with own_schema(postgres_database) as url:
        parts = {"ES_VAULT": url, "ES_KEK_FILE": str(kek)}
        original = another(parts).up()
        user = original.es("users", "create", *ADA).ok().out.strip()
        original.es("down").ok()
        copy = copied(original, another, parts)

        refused = copy.es("up")

        assert refused.code == DAMAGED
        assert f"is a copy of {os.uname().nodename}:{original.home}" in refused.err
        assert "es adopt" in refused.err
        assert copy.es("gdpr", "erase", user, "--yes").code == DAMAGED
        assert "is a copy of" in copy.es("status").exits(DAMAGED).err
        copy.es("down").ok()
        assert copy.es("adopt").code == EXIT_CODES[Kind.INVALID], "nothing is asked without a terminal"
        copy.es("adopt", "--yes").ok()
        assert "vault belongs to system" in copy.es("up").err
        copy.es("down").ok()
        original.up()
        assert "ada@example.com" in original.es("users", "get", user).ok().out


@pytest.mark.over("embedded", because=TWICE)
def test_a_copied_home_with_all_its_parts_works_without_ceremony(
    running: System, another: Callable[..., System]
) -> None:
    user = running.es("users", "create", *ADA).ok().out.strip()
    running.retry("users", "get", user)
    running.es("down").ok()
    copy = copied(running, another, {}).up()

    copy.es("gdpr", "erase", user, "--yes").ok()
    running.up()
    assert "ada@example.com" in running.es("users", "get", user).ok().out
    assert copy.es("doctor", "--quiet").ok().out == ""


def test_a_second_home_on_one_broker_serves_nothing_and_says_why(
    request: pytest.FixtureRequest, another: Callable[..., System]
) -> None:
    with a_system("rabbitmq", request) as first:
        first.up().es("users", "create", *ADA).ok()
        second = another({"ES_BROKER": first.environment["ES_BROKER"]})

        refused = second.es("up")

        assert refused.code == DAMAGED
        assert "RabbitMQ belongs to system" in refused.err
        status = second.es("status")
        assert status.code == UNAVAILABLE
        assert "RabbitMQ belongs to system" in status.out
        assert "another" not in second.es("users", "create", *ADA).out
        second.es("down").ok()
        assert first.es("users", "list").ok().out.count("ada@example.com") == 1
        assert first.es("doctor", "--quiet").ok().out == ""
