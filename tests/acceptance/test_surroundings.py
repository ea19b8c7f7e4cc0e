"""Odd surroundings: closed or full outputs, odd homes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.conftest import (
    DEADLINE_S,
    ES,
    Ran,
    System,
    confirmed,
    ndjson,
    new_root,
    people,
    wait_until,
)
from tests.support.postgres import execute

CLOSED_PIPE = (0, 141)
"""A program whose reader has gone may end well, or as a shell shows a program that SIGPIPE ended."""


@pytest.fixture(scope="module")
def crowded(shared: System) -> System:
    """So many users that a list of them doesn't fit into a pipe."""
    shared.bulk("create", people(3000)).ok()
    shared.caught_up()
    return shared


def _shell(system: System, script: str) -> Ran:
    """Run a shell script in which `$0` is the command, and SINCE stands for the id before all others."""
    script = script.replace("SINCE", system.since)
    done = subprocess.run(
        ["bash", "-c", script, ES], capture_output=True, env=system.environment, timeout=DEADLINE_S
    )
    return Ran((script,), done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "command",
    [
        "users list --after SINCE --limit 100000",
        "users list --after SINCE --limit 100000 --json",
        "events tail --from 0 --no-follow",
        "events tail --from 0",
    ],
)
def test_a_reader_that_goes_away_ends_the_command_quietly(crowded: System, command: str) -> None:
    _assert_quiet_end(crowded, command)


@pytest.mark.own_store("it lists every stream there is")
def test_a_reader_that_goes_away_ends_a_list_of_streams_quietly(crowded: System) -> None:
    _assert_quiet_end(crowded, "streams list --limit 1000")


def _assert_quiet_end(crowded: System, command: str) -> None:
    ran = _shell(crowded, f'"$0" {command} | head -1; exit "${{PIPESTATUS[0]}}"')
    assert ran.code in CLOSED_PIPE, ran
    assert len(ran.lines) == 1
    assert ran.err == ""


def test_a_bulk_whose_reader_goes_away_ends_and_is_safe_to_repeat(crowded: System) -> None:
    inputs = people(2000, prefix="unread")
    source = crowded.root / "unread.ndjson"
    source.write_bytes(ndjson(inputs))
    ran = _shell(crowded, f'"$0" users create --from "{source}" | head -1; exit "${{PIPESTATUS[0]}}"')
    assert ran.code in CLOSED_PIPE, ran
    ran.without_traceback()

    again = crowded.bulk("create", inputs).ok()
    assert len(confirmed(again.objects)) == len(inputs)
    assert ran.lines == again.lines[:1]


@pytest.mark.parametrize(
    "command", ["users list --after SINCE", "users list --after SINCE --json", "config show", "status --json"]
)
def test_a_closed_standard_output_is_no_crash(crowded: System, command: str) -> None:
    ran = _shell(crowded, f'"$0" {command} >&-').without_traceback()
    assert ran.code != 1, ran


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "command", ["users list --after SINCE", "users list --after SINCE --json", "config show"]
)
def test_a_full_standard_output_is_an_error_and_no_crash(crowded: System, command: str) -> None:
    ran = _shell(crowded, f'"$0" {command} >/dev/full').without_traceback()
    assert ran.code == 4, ran
    assert "No space left" in ran.err


def test_a_closed_standard_error_is_no_crash(crowded: System) -> None:
    assert _shell(crowded, '"$0" users get abc 2>&-').code == 2
    assert _shell(crowded, '"$0" users list --after SINCE --limit 1 2>&-').code == 0


def test_a_closed_standard_input_is_no_input(crowded: System) -> None:
    ran = _shell(crowded, '"$0" users create --from - <&-').without_traceback()
    assert (ran.code, ran.out) in ((0, ""), (2, "")), ran
    _shell(crowded, '"$0" users create --email - --name X <&-').failed(2)


def test_a_locale_without_unicode_reads_and_writes_utf_8_all_the_same(crowded: System) -> None:
    plain = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "", "PYTHONUTF8": "", "PYTHONCOERCECLOCALE": ""}
    email = "zoë-locale@example.com".encode()
    made = crowded.es("users", "create", "--email", email, "--name", "Zoë".encode(), environment=plain).ok()
    shown = crowded.es("users", "get", made.out.strip(), environment=plain).ok()
    assert "Zoë".encode() in shown.stdout
    assert email in shown.stdout


# --- odd homes -------------------------------------------------------------------------------------


def _long(root: Path) -> Path:
    """A home whose path has 200 characters."""
    left = 200 - len(str(root))
    parts = ["p" * 49] * (left // 50)
    home = root.joinpath(*parts, "q" * (left % 50 - 1))
    assert len(str(home)) == 200
    return home


@pytest.fixture(
    params=[
        lambda root: root / "a home with  spaces",
        lambda root: root / "quotes'\"$(x)*?[a]; -n",
        lambda root: root / "Füße 家",
        lambda root: root / "not" / "there" / "yet",
        _long,
    ],
    ids=["spaces", "shell-characters", "unicode", "nested", "200-characters"],
)
def odd(request: pytest.FixtureRequest) -> Iterator[System]:
    root = new_root()
    made = System(root, home=request.param(root))
    try:
        yield made
    finally:
        made.close()


def test_a_system_works_whatever_its_home_is_called(odd: System) -> None:
    odd.up()
    user_id = odd.create()
    assert odd.get(user_id)["name"] == "Ada Lovelace"
    assert odd.status()["home"] == str(odd.home)
    assert odd.es("logs", "users").ok().lines
    odd.es("down").ok()
    wait_until(lambda: not odd.processes(), "all has ended")
    assert odd.up().get(user_id)["name"] == "Ada Lovelace"


def test_a_home_may_be_given_relative_and_by_flag(system: System) -> None:
    relative = os.path.relpath(system.home)
    system.es("--home", relative, "up").ok()
    made = system.es("--home", relative, "users", "create", "--email", "a@example.com", "--name", "A").ok()
    system.caught_up()  # a store that others have used may take it a while
    assert system.get(made.out.strip())["name"] == "A"


def test_nobody_else_can_read_the_home(running: System) -> None:
    running.create()
    for path in [running.home, *running.home.rglob("*")]:
        assert path.lstat().st_mode & 0o077 == 0 or path.is_symlink(), f"{path} {path.lstat().st_mode:o}"


@pytest.mark.own_store("it begins without a home, and among strangers the home holds a vault")
def test_a_home_that_is_a_file_is_an_error(system: System) -> None:
    system.home.write_text("not a folder")
    for command in (("up",), ("users", "list"), ("status",), ("down",)):
        ran = system.es(*command).without_traceback()
        assert ran.code in (2, 4), ran
        ran.failed(ran.code)
        assert str(system.home) in ran.err


def test_a_settings_file_that_is_wrong_is_named(system: System) -> None:
    system.home.mkdir(exist_ok=True)
    for text in ("store = 'nonsense://'", "nonsense = 1", "not toml", "\x00", "store = 5"):
        (system.home / "es.toml").write_text(text)
        for command in (("up",), ("users", "list"), ("config", "show")):
            ran = system.es(*command, environment={"ES_STORE": ""}).failed(2)  # the environment would win
            assert "es.toml" in ran.err


@contextmanager
def _without_its_vault(system: System) -> Iterator[None]:
    """Put the vault where nobody finds it, and back in the end."""
    url = system.settings.vault
    if url.startswith("postgresql:"):
        schema = f"{url.rpartition('schema=')[2]}_vault"
        execute(url, f"ALTER SCHEMA {schema} RENAME TO {schema}_lost")
        yield
        # Its tables may be there again; without the secrets it is no vault.
        if execute(url, f"SELECT 1 FROM pg_tables WHERE schemaname = '{schema}'"):
            assert execute(url, f"SELECT name FROM {schema}.secrets") == [], "a new one"
            execute(url, f"DROP SCHEMA {schema} CASCADE")
        execute(url, f"ALTER SCHEMA {schema}_lost RENAME TO {schema}")
        return
    kept = (system.home / "vault.db").read_bytes()
    for file in system.home.glob("vault.db*"):
        file.unlink()
    yield
    assert not (system.home / "vault.db").exists(), "a new one"
    (system.home / "vault.db").write_bytes(kept)


def test_a_lost_vault_is_missed_and_not_replaced(system: System) -> None:
    """A new one would know nobody's keys."""
    system.up()
    user_id = system.create()
    system.es("down").ok()

    with _without_its_vault(system):
        refused = system.es("up", "--json")
        assert refused.code == 4
        assert "vault" in refused.error["message"]
        system.es("down").ok()

    system.up()
    assert system.get(user_id)["name"] == "Ada Lovelace"
