"""The `ids` worker: requests in, ids out of a lease in memory; `workers/ids/lease_keeper.py` keeps that lease.

Promise: an id is never handed out twice, by any number of workers on one store; each worker's ids ascend.
Refusal: no wall clock is read; time is the store's (`workers/ids/store_clock.py`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from uuid import UUID, uuid4

from domain.kernel.errors import EsError, InvalidInput, UnknownRequest
from domain.kernel.ids import STEP, Range, parse_id, position_of
from domain.kernel.messages import LATER, Body, Later, Reply, Request
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.lanes.errors import AheadLimit
from domain.lanes.layout import AHEAD, MAX_LEASE_MS, LaneRange
from workers.ids.blocks import Block, grant_blocks
from workers.ids.fence import fence
from workers.ids.lane_audit import check, show_lanes, verify
from workers.ids.lease_keeper import LaneKeeper
from workers.ids.store_clock import POSITIONS_PER_NS, Machine, asleep_ns
from workers.ids.sure_store import SureStore

COUNT_MAX = 1 << 31
MIN_LEASE_MS = 1000
_NEAR = (AHEAD - 2) * STEP  # how far an id may be ahead of the clock's so that the next is not too far


class IdsService:
    def __init__(
        self,
        store: EventStore,
        codec: Codec,
        *,
        host: str,
        pid: int,
        store_name: str,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        asleep_ns: Callable[[], int] = asleep_ns,
        draw: Callable[[int], int] = secrets.randbelow,
        new_token: Callable[[], UUID] = uuid4,
        lane_range: LaneRange | None = None,
        lease_ms: int = MAX_LEASE_MS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`draw(n)` is a random number below n. Nothing is read or written before the first request.

        `asleep_ns` tells what `monotonic_ns` leaves out: a worker whose machine slept looks at the store's
        clock again.
        """
        if not MIN_LEASE_MS <= lease_ms <= MAX_LEASE_MS:
            raise ValueError(f"a lease lasts {MIN_LEASE_MS} to {MAX_LEASE_MS} ms")
        self._keeper = LaneKeeper(
            SureStore(store, codec, new_token=new_token, draw=draw, sleep=sleep),
            Machine(host, pid, monotonic_ns, asleep_ns),
            store_name=store_name,
            draw=draw,
            new_token=new_token,
            lane_range=lane_range or LaneRange(),
            lease_ms=lease_ms,
        )
        self._monotonic_ns = monotonic_ns
        self._sleep = sleep
        self._new_lock()
        _SERVICES.add(self)

    @property
    def token(self) -> UUID:
        """Who this worker is at the moment; ids ascend strictly as long as it stays the same."""
        return self._keeper.me.worker.token

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        with self._lock:
            draws = _Draws(self._keeper)
            replies: list[Reply] = []
            for index, request in enumerate(batch):
                try:
                    is_draw = request.kind == "ids.next"
                    replies.append(draws.draw(index, request.body) if is_draw else self._look(request))
                except EsError as error:
                    replies.append(self._keeper.note(error))
            for index, reply in draws.rest():
                replies[index] = reply
            return replies

    def _look(self, request: Request) -> Body:
        keeper = self._keeper
        match request.kind:
            case "ids.lanes":
                if not keeper.me.clock.was_seen:
                    keeper.look_at_clock()
                return show_lanes(keeper.store, keeper.now())
            case "ids.check":
                return check(keeper.store, request.body)
            case "ids.verify":
                return verify(keeper.store)
            case "ids.fence":
                return fence(keeper, request.body)
        raise UnknownRequest(request.kind)

    def next_id(self) -> int:
        """One id, for callers in this process: a lock, the lease check, an addition. Raises `EsError`."""
        # `Lease.take(1, now)` written out, in ids instead of positions: every call and every attribute counts
        # here. Not `with`: that costs as much as the clock.
        acquire, release, monotonic_ns, keeper = self._hot
        acquire()
        try:
            lease = keeper.me.lease
            if lease is not None:
                id_ = (monotonic_ns() * POSITIONS_PER_NS >> 37 << 10) + lease.offset_id
                if lease.last_id < id_ < lease.renew_id:
                    lease.last_id = id_
                    return id_
                # Drawn within one position, or after a block that reached ahead.
                if id_ <= lease.last_id < min(id_ + _NEAR, lease.renew_id - STEP):
                    lease.last_id += STEP
                    return lease.last_id
        finally:
            release()
        return self._next_asked()

    def _next_asked(self) -> int:
        """As any caller gets it: the lease has to be looked after first."""
        while isinstance(reply := self.handle([Request("ids.next", {"count": 1})])[0], Later):
            self._sleep(0.001)
        if isinstance(reply, EsError):
            raise reply
        return int(reply["ranges"][0]["first"])

    def close(self) -> None:
        """Give back what was not issued. A store that can't be reached keeps it until the lease has run out."""
        with self._lock:
            with contextlib.suppress(EsError):
                self._keeper.release()
            self._keeper.become_new()

    def drop_lease_after_fork(self) -> None:
        self._new_lock()  # the parent may have forked while a thread held it
        self._keeper.become_child(os.getpid())

    def _new_lock(self) -> None:
        self._lock = threading.Lock()
        self._hot = (self._lock.acquire, self._lock.release, self._monotonic_ns, self._keeper)


class _Draws:
    """The requests for ids in one batch. What keeps one of them from ids is everybody's answer.

    Waiting for the store 256 times would help nobody.
    """

    def __init__(self, keeper: LaneKeeper) -> None:
        self._keeper = keeper
        self._is_prepared = False
        self._failure: EsError | None = None
        self._blocks: dict[int, Block] = {}

    def _prepare(self) -> None:
        """Look after the lease, once per batch."""
        self._is_prepared = True
        try:
            self._keeper.look_after_lease()
        except EsError as error:
            self._failure = self._keeper.note(error)

    def draw(self, index: int, body: Body) -> Reply:
        """The answer from the lease; LATER when it is up to `rest`, or when time has to pass first."""
        count, at_least = _parse_next(body)
        if not self._is_prepared:
            self._prepare()
        if self._failure is not None:
            return self._failure
        try:
            taken = self._keeper.take(count, at_least)
        except AheadLimit:  # of what this caller asks for, not of what the others do
            raise
        except EsError as error:
            self._failure = error
            raise
        if taken is None:
            self._blocks[index] = Block(count, at_least)
        return _reply([taken]) if isinstance(taken, Range) else LATER

    def rest(self) -> list[tuple[int, Reply]]:
        """The answers to requests that were too large for the lease."""
        if not self._blocks:
            return []
        grant_blocks(self._keeper, list(self._blocks.values()))
        return [(index, block.refused or _reply(block.ranges)) for index, block in self._blocks.items()]


def _parse_next(body: Body) -> tuple[int, int]:
    """How many ids, and the first position that may be given (0: any)."""
    count = body.get("count", 1)
    if type(count) is not int or not 1 <= count <= COUNT_MAX:
        raise InvalidInput("count", f"must be a whole number from 1 to {COUNT_MAX}")
    after = body.get("after")
    return count, 0 if after is None else position_of(parse_id(after, field="after")) + 1


def _reply(ranges: Sequence[Range]) -> Body:
    return {"ranges": [{"first": str(r.first), "step": r.step, "count": r.count} for r in ranges]}


# --- forks -----------------------------------------------------------------------------------

_SERVICES: weakref.WeakSet[IdsService] = weakref.WeakSet()


def _drop_leases_after_fork() -> None:
    for service in list(_SERVICES):
        service.drop_lease_after_fork()


os.register_at_fork(after_in_child=lambda: _drop_leases_after_fork())
