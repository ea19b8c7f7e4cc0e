"""The cluster file, started with the engine of this machine, and every node killed under load.

The stand-in for a cluster of EventStoreDB has one log that its nodes share: it proves that clients find the new leader, not
that a server replicates.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support import effort
from tests.support.containers.people import Accounts
from tests.support.containers.project import Project, documented

ROLES = ("ids", "users", "projections", "erasures", "relay")
NODES = ("rabbitmq", "rabbitmq2", "rabbitmq3", "eventstore", "eventstore2", "eventstore3")
UP = "docker compose up --detach --wait --scale users=4"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not effort.IS_LONG, reason="takes half an hour: `make soak` runs it"),
]


@pytest.fixture
def cluster(
    new_project: Callable[[str], AbstractContextManager[Project]], tmp_path: Path
) -> Iterator[Project]:
    """A new cluster, as the tops of the compose files say."""
    faulthandler.cancel_dump_traceback_later()  # containers take minutes
    with new_project("cluster") as project:
        project.share(tmp_path)
        project.environment["COMPOSE_FILE"] = project.files
        (block,) = [
            each for each in documented("README.md", "More than one machine") if "compose build" in each
        ]
        project.shell("\n".join(block.splitlines()[:3]))
        project.shell(UP)
        yield project


def test_a_cluster_loses_nothing_when_each_node_is_killed_under_load(cluster: Project) -> None:
    accounts = Accounts(cluster)
    assert cluster.services() == sorted([*NODES, "postgres", *ROLES, *["users"] * 3])
    running = cluster.compose(
        "exec", "-T", "rabbitmq", "rabbitmqctl", "--quiet", "cluster_status", "--formatter", "json"
    )
    assert all(f'"rabbit@rabbitmq{n}"' in running for n in (1, 2, 3))

    for service in (*NODES, "postgres", *ROLES):
        accounts.create_while_killed(service, effort.CONTAINER_BULK)

    accounts.assert_complete()
    cluster.shell(f"docker compose down\n{UP}")
    accounts.assert_complete()
