"""Event store in EventStoreDB or KurrentDB.

Promise: exact expected versions, and one call for a whole batch. After an unknown outcome the same items are sent
again, at the same versions with the same event ids, until every outcome is known. Refusal: no call without a
deadline, no connection before the first call, no read from a node that may lag behind the leader.

EventStoreDB differs from the other stores in three ways:

- It compares an event id only with the events after the expected version. So this adapter compares the ids of a
  stream before each append. An id may be used once per stream: ids of different streams are not compared.
- It cannot list streams without a system projection. `streams` reads all events, within a time limit.
- It allows operators to delete and truncate streams. This system never does: a stream that misses events is damaged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from uuid import UUID

from adapters.eventstoredb.appending import Appending
from adapters.eventstoredb.connection import Connection
from adapters.eventstoredb.heads import Heads, Seen, caught_up_with
from adapters.eventstoredb.identity import Identity
from adapters.eventstoredb.known_ids import KnownIds
from adapters.eventstoredb.messages import Selection
from adapters.eventstoredb.reading import Reading
from adapters.eventstoredb.subscription import Subscription
from adapters.eventstoredb.url import checked
from domain.kernel.errors import Damaged, EsError
from domain.kernel.events import BEGINNING, NO_STREAM, Position, Recorded
from domain.kernel.history import Fit, Mark
from domain.kernel.ports.event_store import Append, AppendResult, CaughtUp

_KNOWN_IDS = 200_000


class EventStoreDbStore:
    is_remote = True

    def __init__(self, url: str, *, call_timeout_s: float = 3.0, settle_s: float = 6.0) -> None:
        """Check the URL, and connect at the first call.

        `url` is as in the EventStoreDB manual: `esdb://host:2113?tls=false`, several hosts, `esdb+discover://`, and
        each with `kurrentdb` instead of `esdb`.
        `call_timeout_s` is for one attempt, `settle_s` for a method with all its retries, the search for the
        leader included. gossipTimeout, discoveryInterval and maxDiscoverAttempts of
        the URL have no effect. Raises InvalidSetting, without the URL in its text.
        """
        self._connection = Connection(checked(url), call_timeout_s=call_timeout_s, settle_s=settle_s)
        self._known_ids = KnownIds(_KNOWN_IDS)
        self._reading = Reading(self._connection, self._known_ids)
        self._heads = Heads()
        self._identity = Identity(self)

    def append(self, batch: Sequence[Append]) -> list[AppendResult]:
        for item in batch:
            # No iterators: the first attempt would exhaust one, and a retry would store nothing.
            if not isinstance(item.events, Sequence) or not item.events or item.expected_version < NO_STREAM:
                raise ValueError("an append needs events and an expected version of at least -1")
        appending = Appending(batch, self._known_ids)
        try:
            self._connection.call(appending.run)
        except EsError as error:
            if not appending.has_results:
                raise
            self._connection.mark_reachable()
            appending.give_up(error)
        return appending.results()

    def read_stream(
        self, stream: str, from_version: int = 0, *, backwards: bool = False, limit: int | None = None
    ) -> Iterator[Recorded]:
        read = self._reading.backwards if backwards else self._reading.forwards
        return read(stream, from_version, limit)

    def read_streams(
        self, streams: Sequence[str], *, first: Mapping[str, int] | None = None
    ) -> Mapping[str, Sequence[Recorded] | Damaged]:
        return self._reading.many(streams, first or {})

    def read_all(
        self, after: Position, limit: int, *, prefixes: Sequence[str] | None = None
    ) -> Iterator[Recorded]:
        return self._reading.all_after(after, limit, Selection(prefixes))

    def head(self) -> Position:
        asked_at_s = time.monotonic()
        last = self._connection.call(lambda client, deadline: client.last(timeout_s=deadline.left_s()))
        seen = Seen(caught_up_with(last), asked_at_s)
        self._heads.learn(seen)  # its followers need not ask themselves
        return seen.head.position

    def fit(self, mark: Mark) -> Fit:
        return self._reading.fit(mark)

    def system_id(self) -> UUID | None:
        return self._identity.system_id()

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None = None) -> UUID:
        claimed = self._identity.claim(system_id, instead_of)
        self._connection.call(lambda client, _: client.end_appends())  # the worker may be one that only reads
        return claimed

    def follow(
        self,
        after: Position,
        *,
        stopped: Callable[[], bool],
        prefixes: Sequence[str] | None = None,
        types: Sequence[str] | None = None,
    ) -> Iterator[Recorded | CaughtUp]:
        if stopped():
            return
        connection = self._connection
        connection.check_usable()
        live = Subscription(
            connection.own_client,
            max(after, BEGINNING),
            Selection(prefixes, types),
            self._reading.positions,
            self._heads,
            stall_timeout_s=connection.settle_s,
        )
        try:
            while not stopped():
                items = live.take()
                connection.check_usable()
                for item in items:
                    yield item
                    if stopped():
                        return
        finally:
            live.close()

    def close(self) -> None:
        self._connection.close()
