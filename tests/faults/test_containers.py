"""The compose files, started with the engine of this machine: what operators do with them, and crashes under load.

Images that cannot be fetched are stand-ins: Debian's servers, and the test node instead of EventStoreDB. The run
prints which. It makes a Debian (minutes, once), some 2 GB of images, and opens one port of the loopback interface.
"""

from __future__ import annotations

import faulthandler
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support import effort
from tests.support.containers.people import Accounts
from tests.support.containers.project import BASE, CLUSTER, Project, documented
from tests.support.people import people
from tests.support.waiting import eventually

SERVERS = ("rabbitmq", "eventstore", "postgres")
ROLES = ("ids", "users", "projections", "erasures", "relay")
UP = "docker compose up --detach --wait --scale users=4"
IN_A_CONTAINER = 'es() { docker compose run --rm --no-deps es "$@"; }\n'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not effort.IS_LONG, reason="takes half an hour: `make soak` runs it"),
]


@pytest.fixture(autouse=True)
def _no_traces() -> None:
    """Print no stacks of slow tests: containers take minutes."""
    faulthandler.cancel_dump_traceback_later()


NewProject = Callable[[str], AbstractContextManager[Project]]


@pytest.fixture(scope="module")
def one_host(new_project: NewProject) -> Iterator[Project]:
    """The first run of the README."""
    with new_project("host") as project:
        first_run(project)
        yield project


def first_run(project: Project) -> None:
    (block,) = [each for each in documented("README.md", "More than one machine") if "compose build" in each]
    *preparing, create = block.splitlines()
    project.shell("\n".join(preparing))
    # Workers have no health check: until they have declared their queues, commands exit with 4.
    eventually(lambda: project.succeeds(create), "the first user is created")


@pytest.fixture(scope="module")
def accounts(one_host: Project) -> Accounts:
    return Accounts(one_host)


def test_the_first_run_of_the_readme_makes_a_system_that_works(one_host: Project) -> None:
    assert one_host.services() == sorted([*SERVERS, *ROLES, *["users"] * 3])
    assert (
        one_host.es("users", "find", "--email", "ada@example.com", "--json").object["name"] == "Ada Lovelace"
    )
    assert one_host.es("doctor").code in (0, 1)  # 1: only warnings, such as of a clock
    assert "127.0.0.1" in one_host.compose("port", "rabbitmq", "15672")


def test_the_commands_of_the_readme_work_in_a_container(one_host: Project) -> None:
    (block,) = [each for each in documented("README.md", "es") if "es gdpr erase" in each]
    commands = [line for line in block.splitlines() if line.startswith(("es ", "ID="))]
    assert len(commands) == 7
    script = "\n".join(commands).replace("ada@example.com", "grace@example.com")

    eventually(lambda: one_host.es("status").code == 0, "every worker is ready")
    said = one_host.shell(IN_A_CONTAINER + script)

    assert "Ada King" in said
    assert "user-renamed" in said
    assert one_host.es("users", "find", "--email", "grace@example.com").code == 3


def test_nothing_is_lost_when_each_container_is_killed_under_load(
    one_host: Project, accounts: Accounts
) -> None:
    for service in (*SERVERS, *ROLES):
        accounts.create_while_killed(service, effort.CONTAINER_BULK)

    accounts.assert_complete()


def test_nothing_is_lost_by_down_and_up(one_host: Project, accounts: Accounts) -> None:
    one_host.shell(f"docker compose down\n{UP}")

    accounts.assert_complete()
    accounts.repeat([{"email": "after-down@example.com", "name": "After"}])


# --- restoring -------------------------------------------------------------------------------


@dataclass(frozen=True)
class History:
    """Users by when they registered. `erased` registered before the backup, and was erased after it."""

    before: str
    erased: str
    after: str


@pytest.fixture
def history(one_host: Project, tmp_path: Path) -> History:
    """Users before and after a backup, which was made as the document says."""
    one_host.environment["to"] = str(tmp_path)
    accounts = Accounts(one_host)
    name = uuid4().hex
    before, erased = (answer["user_id"] for answer in accounts.repeat(people(2, prefix=f"before-{name}-")))
    for part in ("EventStoreDB", "PostgreSQL"):
        one_host.shell("".join(documented("docs/operations.md", part)))
    (after,) = (answer["user_id"] for answer in accounts.repeat(people(1, prefix=f"after-{name}-")))
    # Workers may be reconnecting after the backup; a retry is safe.
    eventually(lambda: one_host.es("gdpr", "erase", erased, "--yes").code == 0, "the person is erased")
    return History(before, erased, after)


def restoring(number: int) -> str:
    return documented("docs/operations.md", "Distributed")[number]


def events_alone() -> str:
    """The document: "the same without the two lines of `es_vault`"."""
    lines = restoring(0).splitlines(keepends=True)
    kept = [line for line in lines if "es_vault" not in line and "vault.dump" not in line]
    assert len(kept) == len(lines) - 2
    return "".join(kept)


RESTORED: dict[str, tuple[Callable[[], str], str, str]] = {
    "events and vault": (lambda: restoring(0) + restoring(1), "active", "missing"),
    "events": (lambda: events_alone() + restoring(1), "erased", "missing"),
    "vault": (lambda: restoring(2), "erased", "unreadable"),
    "read models": (lambda: restoring(3), "erased", "active"),
}
"""What the document says, the status of the user who was erased since the backup, and of the user who is younger."""


def no_lag(project: Project) -> bool:
    """Whether erasures and relay have read all events: an operator looks for it in `es status`."""
    lines = project.es("status").lines  # exit 4 while other roles do not run
    return all(any(line.startswith(f"{each}: lag 0 ") for line in lines) for each in ("erasures", "relay"))


@pytest.mark.parametrize("parts", RESTORED)
def test_a_restore_ends_as_the_document_says(one_host: Project, history: History, parts: str) -> None:
    script, erased, younger = RESTORED[parts]

    for step in re.split(r"^docker compose run .* es (?:status|doctor)$", script(), flags=re.MULTILINE):
        one_host.shell(step)
        eventually(lambda: no_lag(one_host), "erasures and relay have no lag")

    def statuses() -> list[str] | None:
        shown = [
            one_host.es("users", "get", user, "--json")
            for user in (history.before, history.erased, history.after)
        ]
        if any(ran.code == 4 for ran in shown):
            return None
        return ["missing" if ran.code == 3 else ran.object["status"] for ran in shown]

    eventually(lambda: statuses() == ["active", erased, younger], f"users are shown: {statuses()}")
    eventually(lambda: not one_host.es("gdpr", "status", "--json").objects, "nothing is owed")
    assert one_host.es("doctor").code == 0
    Accounts(one_host).repeat(people(1, prefix=uuid4().hex))


# --- the cluster -----------------------------------------------------------------------------


def test_one_node_becomes_three_as_the_document_says(
    one_host: Project, accounts: Accounts, tmp_path: Path
) -> None:
    (block,) = [each for each in documented("docs/operations.md", "The cluster") if "eventstore2" in each]

    one_host.share(tmp_path)
    one_host.shell(block.replace(f"{BASE}:{CLUSTER}", one_host.files))
    one_host.environment["COMPOSE_FILE"] = one_host.files

    accounts.assert_complete()
    accounts.repeat([{"email": "three@example.com", "name": "Three"}])
