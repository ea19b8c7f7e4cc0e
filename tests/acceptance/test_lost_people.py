"""A person whose events an administrator deleted in EventStoreDB is erased like any other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from adapters.eventstoredb.driver import EventStoreDBClient
from tests.support.system import System
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.over("distributed", because="streams can be deleted in EventStoreDB only")

LOSSES: dict[str, Callable[[EventStoreDBClient, str], object]] = {
    "deleted": lambda admin, stream: admin.delete_stream(stream, current_version=1, timeout=DEADLINE_S),
    "tombstoned": lambda admin, stream: admin.tombstone_stream(stream, current_version=1, timeout=DEADLINE_S),
    "truncated": lambda admin, stream: admin.set_stream_metadata(
        stream, metadata={"$maxCount": 1}, timeout=DEADLINE_S
    ),
}


def test_a_person_whose_stream_is_gone_is_erased_and_the_others_after_them(running: System) -> None:
    ids = {loss: running.create(f"{loss}@example.com", "Lost") for loss in LOSSES}
    with closing(EventStoreDBClient(running.environment["ES_STORE"])) as admin:
        for loss, user_id in ids.items():
            running.es("users", "rename", user_id, "Renamed").ok()
            LOSSES[loss](admin, f"user-{user_id}")

    for loss, user_id in ids.items():
        for _ in range(2):
            assert "erased" in running.es("gdpr", "erase", user_id, "--yes").ok().out, loss
    after = running.create("after@example.com", "After")
    running.erase(after)

    for loss, user_id in ids.items():
        assert running.get(user_id)["status"] == "erased", loss
        assert running.create(f"{loss}@example.com", "The address is free") != user_id
    assert running.es("gdpr", "erase", "5", "--yes").failed(3)
