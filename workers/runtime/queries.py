"""The parts and checks that the queries of all features share: sources, waiting for a projection, fields of requests.

Promise: a query that names a position is answered with at least that position, or with an error. Refusal: personal
values are opened here, at the edge, and nowhere before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from adapters.log import Log
from domain.kernel.errors import Damaged, EsError, InvalidInput, PartUnavailable, UnknownEventType
from domain.kernel.events import BEGINNING, Metadata, Position, Recorded, shown_fields
from domain.kernel.messages import LATER, Body, Later, Reply, Request
from domain.kernel.ports.codec import Codec, Keyring
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.read_model import ReadModel
from domain.kernel.ports.vault import Vault
from domain.kernel.projection import Key, Projection, Value
from workers.runtime.event_bodies import event_body
from workers.runtime.opening import Showing, unreadable_fields

PATIENCE_S = 6.0
"""How long a query waits for its projection. Then the reply is ProjectionBehind, before the caller times out (8 s)."""
LIST_LIMIT = 1000
MAX_WHOLE = (1 << 63) - 1

Query = Callable[[Request], Reply]
"""Answers one request. An error is raised or returned; `LATER` requests the same request with a later batch."""


class Together:
    """A query that reads as often for all requests of a batch as for one: each read may be a wait for a server."""

    def __init__(self, answer: Callable[[Sequence[Request]], list[Reply]]) -> None:
        """`answer` returns one reply per request, in order. It raises an error that is that of all of them."""
        self.answer = answer

    def __call__(self, request: Request) -> Reply:
        (reply,) = self.answer([request])
        return reply


Queries = Mapping[str, Query]
"""Queries by kind of request."""


class ProjectionBehind(PartUnavailable):
    """A projection has not reached the position of one request. The part itself is available."""


class OtherHistoryShown(ProjectionBehind):
    """The rows of a projection come from another history than that of the event store, and are not shown."""

    code = "other-history"

    def __init__(self, projection: str) -> None:
        super().__init__(
            f"the {projection} projection",
            "the event store was restored or replaced, and the projection is being rebuilt",
            f"Wait until the rebuild is done: `es projections status {projection}` shows it. Then retry.",
        )


class Waiting:
    """Lets the loop try again when a projection has moved, if a query waits for one."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        """`wake` lets the loop hand the waiting requests over again. Any thread may call it."""
        self._wake = wake
        self._waits = False

    def begin(self) -> None:
        """A query waits from now on. It looks at the position once more after this, or it could miss a move."""
        self._waits = True

    def retry(self) -> None:
        if self._waits:
            self._waits = False
            self._wake()


@dataclass(frozen=True)
class Sources:
    """The parts that a query may read. `keyring` fetches data keys; `erased_keyring` opens every value to `ERASED`."""

    store: EventStore
    codec: Codec
    vault: Vault
    keyring: Callable[[Sequence[int]], Keyring]
    erased_keyring: Keyring
    read_model: ReadModel
    projections: Sequence[Projection]
    reached: Callable[[Projection], Position | None]
    """The position that the rows of a projection have reached.

    None before they were compared with the event store, and while they are those of another history.
    """
    last_error: Callable[[Projection], Body | None]
    """The last error of a projection's follower, until it makes progress."""
    ensure_rebuild: Callable[[Projection], None]
    rebuild_error: Callable[[Projection], Body | None]
    now_us: Callable[[], int]
    monotonic_s: Callable[[], float] = time.monotonic
    code_of: Callable[[Projection], str] = lambda _: ""
    """The behaviour of a projection's present code."""
    log: Log | None = None
    """Where a request that changes rows is noted."""
    waiting: Waiting = field(default_factory=Waiting)

    def wait_for(self, projection: Projection, request: Request, position: Position) -> Later | None:
        """`LATER` until the projection has reached a position. Raises ProjectionBehind after 6 s.

        Raises OtherHistoryShown while its rows are those of another history. Such rows are not shown, not even with
        a warning: an erased person would appear as active, and users as registered who are not. Which rows of the
        lost history are true as well is known only when the rebuild is done.
        """
        if self._has_reached(projection, position):
            return None
        self.waiting.begin()
        if self._has_reached(projection, position):
            return None
        reached = self.reached(projection)
        if reached is None and self.has_other_history(projection):
            raise OtherHistoryShown(projection.name)
        since_s = request.memo.setdefault("since_s", self.monotonic_s())
        if self.monotonic_s() - since_s > PATIENCE_S:
            error = self.last_error(projection)
            raise ProjectionBehind(
                f"the {projection.name} projection",
                f"it is at position {reached or BEGINNING}, not yet at {position}"
                + (f": {error['message']}" if error else ""),
                "Look at `es projections status` and `es logs projections`, then retry.",
            )
        return LATER

    def _has_reached(self, projection: Projection, position: Position) -> bool:
        reached = self.reached(projection)
        return reached is not None and reached >= position

    def has_other_history(self, projection: Projection) -> bool:
        """Whether the rows of a projection are those of another history than the event store's."""
        error = self.last_error(projection)
        return error is not None and error["code"] == OtherHistoryShown.code

    def target(self, request: Request, head: Callable[[], Position] | None = None) -> Position:
        """The position that the reply must include: `after_position`, or with `fresh` the head of the store."""
        if "position" not in request.memo:
            head = head or self.store.head
            after = whole(request, "after_position", BEGINNING)
            if after > BEGINNING and after > head():
                raise InvalidInput("after", "is after the head of the event store")
            fresh = request.body.get("fresh") is True
            request.memo["position"] = max(after, head() if fresh else BEGINNING)
        return int(request.memo["position"])

    def rows_of(
        self, projection: Projection, requests: Sequence[Request], key_of: Callable[[Request], Key]
    ) -> list[dict[str, Value] | Later | EsError | None]:
        """For each request the row of its key, in a state that includes its `target`. None if no stored event made such a row.

        The number of reads does not depend on that of the requests. `key_of` may raise an EsError.
        """
        # Once: every request of the batch is older.
        head = cache(self.store.head)
        found: dict[int, dict[str, Value] | Later | EsError | None] = {}
        keys: dict[int, Key] = {}
        for index, request in enumerate(requests):
            try:
                keys[index] = key_of(request)
                later = self.wait_for(projection, request, self.target(request, head))
            except EsError as error:
                found[index] = error
            else:
                found[index] = later
        keys = {index: key for index, key in keys.items() if found[index] is None}
        # After the looks at the position: then the rows include it.
        wanted = list(dict.fromkeys(keys.values()))
        try:
            rows = self.read_model.rows(projection, keys=wanted) if wanted else []
        except EsError as error:  # of those that need a row
            found.update(dict.fromkeys(keys, error))
            return [found[index] for index in range(len(requests))]
        by_key = {row[projection.key]: row for row in rows}
        found.update({index: by_key.get(key) for index, key in keys.items()})
        # A row that is not there is missing, or not projected yet: first wait for all events that are stored now.
        missed = [i for i in keys if found[i] is None and not requests[i].memo.get("missed")]
        if missed:
            position = self.store.head()
            for index in missed:
                requests[index].memo.update(missed=True, position=position)
            again = self.rows_of(projection, [requests[index] for index in missed], key_of)
            found.update(zip(missed, again, strict=True))
        return [found[index] for index in range(len(requests))]

    def shown(self, recorded: Recorded, *, subject: int | None = None, opener: Showing | None = None) -> Body:
        """A stored event for showing, in its latest version: with sealed fields, or with an opener its opened fields.

        What cannot be shown is named in `unreadable`: fields with their reasons, or `data` for all of them.
        """
        try:
            metadata: Metadata | None = self.codec.metadata(recorded)
        except Damaged:
            metadata = None  # written by another program
        type_, data, unreadable = recorded.type, Body(), Body()
        try:
            type_, data = self.codec.stored(recorded)
            if opener is not None:
                event = self.codec.decode(recorded, subject=subject, opener=opener)
                data, unreadable = shown_fields(event), unreadable_fields(event)
        except (Damaged, UnknownEventType) as error:
            unreadable = {"data": error.code}
        body = event_body(recorded, metadata, type_, data)
        return {**body, "unreadable": unreadable} if unreadable else body


def whole(request: Request, field: str, default: int) -> int:
    """A field with a whole number from 0 to 2^63 - 1. Raises InvalidInput."""
    value = request.body.get(field)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_WHOLE:
        raise InvalidInput(field, f"must be a whole number from 0 to {MAX_WHOLE}")
    return value


def limit_of(request: Request) -> int:
    """The number of items of a page: from 1 to 1000, by default 100. Fewer are sent if they do not fit: see `pages`."""
    return max(1, min(whole(request, "limit", 100), LIST_LIMIT))


def text(request: Request, field: str) -> str:
    """A text field, by default empty. Raises InvalidInput."""
    value = request.body.get(field, "")
    if not isinstance(value, str):
        raise InvalidInput(field, "must be text")
    return value
