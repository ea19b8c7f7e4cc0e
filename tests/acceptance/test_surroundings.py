"""Closed and full outputs, unusual homes, and parts that are missing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.people import confirmed, ndjson, people
from tests.support.postgres import execute
from tests.support.runs import ES, Ran
from tests.support.system import System, new_root
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.usually_over("embedded", because="it is about the command line")

CLOSED_PIPE = (0, 141)  # a program whose reader has closed the pipe may succeed, or end as after SIGPIPE


@pytest.fixture(scope="module")
def crowded(shared: System) -> System:
    """A system with so many users that a list of them does not fit into a pipe."""
    shared.bulk("create", people(3000)).ok()
    shared.caught_up()
    return shared


def _shell(system: System, script: str) -> Ran:
    """Run a shell script in which `$0` is `es`. SINCE stands for the id before all others."""
    script = script.replace("SINCE", system.since)
    done = subprocess.run(
        ["bash", "-c", script, ES], capture_output=True, env=system.environment, timeout=DEADLINE_S
    )
    return Ran((script,), done.returncode, done.stdout, done.stderr)


def _first_line(system: System, command: str) -> Ran:
    """Run a command whose reader closes the pipe after one line."""
    ran = _shell(system, f'"$0" {command} | head -1; exit "${{PIPESTATUS[0]}}"')
    assert ran.code in CLOSED_PIPE, ran
    assert len(ran.lines) == 1
    return ran


@pytest.mark.parametrize(
    "command",
    [
        "users list --after SINCE --limit 100000",
        "users list --after SINCE --limit 100000 --json",
        "events tail --from 0 --no-follow",
        "events tail --from 0",
    ],
)
def test_a_reader_that_closes_the_pipe_ends_the_command_quietly(crowded: System, command: str) -> None:
    assert _first_line(crowded, command).err == ""


@pytest.mark.own_store("it lists all streams of the store")
def test_a_reader_that_closes_the_pipe_ends_a_list_of_streams_quietly(crowded: System) -> None:
    assert _first_line(crowded, "streams list --limit 1000").err == ""


def test_a_bulk_whose_reader_closes_the_pipe_is_safe_to_repeat(crowded: System) -> None:
    inputs = people(2000, prefix="unread")
    source = crowded.root / "unread.ndjson"
    source.write_bytes(ndjson(inputs))
    ran = _first_line(crowded, f'users create --from "{source}"').without_traceback()

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


def test_a_closed_standard_input_is_empty_input(crowded: System) -> None:
    ran = _shell(crowded, '"$0" users create --from - <&-').without_traceback()
    assert (ran.code, ran.out) in ((0, ""), (2, "")), ran
    _shell(crowded, '"$0" users create --email - --name X <&-').failed(2)


def test_without_a_unicode_locale_input_and_output_are_still_utf_8(crowded: System) -> None:
    plain = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "", "PYTHONUTF8": "", "PYTHONCOERCECLOCALE": ""}
    email = "zoë-locale@example.com".encode()
    made = crowded.es("users", "create", "--email", email, "--name", "Zoë".encode(), environment=plain).ok()
    shown = crowded.es("users", "get", made.out.strip(), environment=plain).ok()
    assert "Zoë".encode() in shown.stdout
    assert email in shown.stdout


def _long(root: Path) -> Path:
    """A home whose path has 200 characters."""
    left = 200 - len(str(root))
    home = root.joinpath(*["p" * 49] * (left // 50), "q" * (left % 50 - 1))
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
    """A system whose home has an unusual path."""
    root = new_root()
    with closing(System(root, home=request.param(root))) as made:
        yield made


def test_a_system_works_with_any_path_of_its_home(odd: System) -> None:
    user_id = odd.up().create()
    assert odd.get(user_id)["name"] == "Ada Lovelace"
    assert odd.status()["home"] == str(odd.home)
    assert odd.es("logs", "users").ok().lines
    odd.es("down").ok()
    odd.ended()
    assert odd.up().get(user_id)["name"] == "Ada Lovelace"


def test_a_home_may_be_given_relative_and_by_flag(system: System) -> None:
    relative = os.path.relpath(system.home)
    system.es("--home", relative, "up").ok()
    made = system.es("--home", relative, "users", "create", "--email", "a@example.com", "--name", "A").ok()
    system.caught_up()  # which may take long beside events of other systems
    assert system.get(made.out.strip())["name"] == "A"


def test_other_users_of_the_machine_cannot_read_the_home(running: System) -> None:
    running.create()
    for path in [running.home, *running.home.rglob("*")]:
        assert path.lstat().st_mode & 0o077 == 0 or path.is_symlink(), f"{path} {path.lstat().st_mode:o}"


@pytest.mark.own_store("it begins without a home, but over a named store the home holds a vault")
def test_a_home_that_is_a_file_is_an_error(system: System) -> None:
    system.home.write_text("not a folder")
    for command in (("up",), ("users", "list"), ("status",), ("down",)):
        ran = system.es(*command)
        assert ran.code in (2, 4), ran
        assert str(system.home) in ran.failed(ran.code).err


def test_an_error_in_the_settings_file_names_the_file(system: System) -> None:
    system.home.mkdir(exist_ok=True)
    for text in ("store = 'nonsense://'", "nonsense = 1", "not toml", "\x00", "store = 5"):
        (system.home / "es.toml").write_text(text)
        for command in (("up",), ("users", "list"), ("config", "show")):
            # Without ES_STORE, which takes precedence over the file.
            assert "es.toml" in system.es(*command, environment={"ES_STORE": ""}).failed(2).err


@contextmanager
def _without_its_vault(system: System) -> Iterator[None]:
    """Move the vault away during the block, and check that no new one was made."""
    url = system.settings.vault
    if url.startswith("postgresql:"):
        schema = f"{url.rpartition('schema=')[2]}_vault"
        execute(url, f"ALTER SCHEMA {schema} RENAME TO {schema}_lost")
        yield
        # Its tables may exist again. Without the secrets it is no vault.
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


@pytest.mark.usually_over("embedded", "distributed", because="the parts differ")
def test_a_missing_vault_is_an_error_and_is_not_replaced(system: System) -> None:
    """A new vault would lack the keys of all users."""
    user_id = system.up().create()
    system.es("down").ok()

    with _without_its_vault(system):
        refused = system.es("up", "--json")
        assert (refused.code, "vault" in refused.error["message"]) == (4, True), refused
        system.es("down").ok()

    assert system.up().get(user_id)["name"] == "Ada Lovelace"
