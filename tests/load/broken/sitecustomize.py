"""Break the workers of one test as `ES_TEST_BREAK` says, if this folder is on PYTHONPATH. A ledger must find each break.

    doubled        each command of users appends its event twice, the second time under its own command id
    doubled-other  the same, the second time under a new command id
    early          users are answered one batch before their events are stored
    very-early     the same, twenty batches
    skipping       the projection of users skips renames
    shared-ids     each third request for three ids gets those of the request before it
    ids-of-users   a request for three ids gets those of the next users

Python imports this module at the start of every process, so the program needs no option for it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

BREAK = os.environ["ES_TEST_BREAK"]
THREE = 3
"""The number of ids that a test requests at once. Workers draw others for users."""


def doubled(*, own_id: bool) -> None:
    from domain.kernel.events import event_id
    from domain.kernel.loaded_stream import Decided, LoadedStream
    from domain.kernel.orders import Done, Order
    from domain.users.account import USER

    decide: Any = LoadedStream.decide

    def decide_twice(self: Any, order: Order[Any]) -> Any:
        decided = decide(self, order)
        is_change = isinstance(decided, Decided) and isinstance(decided.outcome, Done)
        if not is_change or type(order.command) not in USER.commands:
            return decided
        metadata = order.metadata if own_id else replace(order.metadata, command_id=uuid4())
        event = self._decided[-1]
        again = self._codec.encode(
            event,
            event_id=event_id(metadata.command_id, 1),
            subject=order.person,
            metadata=metadata,
            sealer=self._keyring,
        )
        decided.events.append(again)
        self._decided.append(event)
        self.version += 1
        return decided

    setattr(LoadedStream, "decide", decide_twice)  # noqa: B010  # mypy refuses an assignment to a method


def early(batches: int) -> None:
    from adapters.sqlite.event_store import SqliteStore
    from domain.kernel.ports.event_store import Append, Appended

    append: Any = SqliteStore.append
    read_streams: Any = SqliteStore.read_streams
    held: list[Sequence[Append]] = []
    lock = threading.RLock()

    def store_held(self: SqliteStore, left: int) -> None:
        while len(held) > left:
            append(self, held.pop(0))

    def append_later(self: SqliteStore, batch: Sequence[Append]) -> Any:
        with lock:
            if not all(item.stream.startswith("user-") for item in batch):
                store_held(self, 0)
                return append(self, batch)
            position = self.head() + sum(map(len, held))
            held.append(batch)
            store_held(self, batches)
            return [
                Appended(item.expected_version + len(item.events), position + number)
                for number, item in enumerate(batch, start=1)
            ]

    def read_all_streams(self: SqliteStore, streams: Sequence[str], **given: Any) -> Any:
        with lock:
            if streams:
                store_held(self, 0)
        return read_streams(self, streams, **given)

    setattr(SqliteStore, "append", append_later)  # noqa: B010
    setattr(SqliteStore, "read_streams", read_all_streams)  # noqa: B010


def skipping() -> None:
    from domain.users.account import UserRenamed
    from domain.users.projection import Users

    apply: Any = Users.apply

    def apply_others(self: Users, recorded: Any, event: Any, row: Any) -> Any:
        return [] if isinstance(event, UserRenamed) else apply(self, recorded, event, row)

    setattr(Users, "apply", apply_others)  # noqa: B010


def shared_ids(*, of_users: bool) -> None:
    from domain.kernel.ids import Range
    from workers.ids import service

    reply: Any = service._reply
    given: dict[str, Any] = {"requests": 0}

    def reply_again(ranges: Sequence[Range]) -> Any:
        if sum(each.count for each in ranges) != THREE:
            given["users"] = ranges[0]
            return reply(ranges)
        if of_users and "users" in given:
            return reply([Range(given["users"].first, THREE)])
        given["requests"] += 1
        if given["requests"] % 3 == 0:
            return reply(given["three"])
        given["three"] = ranges
        return reply(ranges)

    setattr(service, "_reply", reply_again)  # noqa: B010


BREAKS: dict[str, tuple[str, Any]] = {
    "doubled": ("users", lambda: doubled(own_id=True)),
    "doubled-other": ("users", lambda: doubled(own_id=False)),
    "early": ("users", lambda: early(1)),
    "very-early": ("users", lambda: early(20)),
    "skipping": ("projections", skipping),
    "shared-ids": ("ids", lambda: shared_ids(of_users=False)),
    "ids-of-users": ("ids", lambda: shared_ids(of_users=True)),
}
"""The role whose workers are broken, and what breaks them."""

_role, _breaking = BREAKS[BREAK]
if "serve" in sys.orig_argv and _role in sys.orig_argv:
    _breaking()
