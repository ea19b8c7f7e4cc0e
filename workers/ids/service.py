"""The `ids` worker: it answers requests with ids from a lease in memory.

Promise: no two workers on one store issue the same id, and each worker's ids ascend. Refusal: no wall clock is
read; time comes from the store.
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
from domain.lanes.layout import LaneRange
from domain.lanes.leases import Lease
from domain.lanes.limits import AHEAD, COUNT_MAX, MAX_LEASE_MS, MIN_LEASE_MS
from workers.ids.blocks import Block, grant_blocks
from workers.ids.fence import fence
from workers.ids.lease_keeper import LeaseKeeper
from workers.ids.queries import check, show_lanes, verify
from workers.ids.retrying_store import RetryingStore
from workers.ids.store_clock import POSITIONS_PER_NS, Machine, asleep_ns

_NEAR = (AHEAD - 2) * STEP  # how far an id may be ahead of the clock's id so that its successor is allowed

_OTHERS_LIMIT = 8
"""Queries in one batch. Each may read all lanes, and the replies of a batch are in memory at once."""


class IdsService:
    """Clocks, randomness, the range of lanes and the length of a lease are arguments for the sake of tests."""

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
        random_below: Callable[[int], int] = secrets.randbelow,
        new_token: Callable[[], UUID] = uuid4,
        lane_range: LaneRange | None = None,
        lease_ms: int = MAX_LEASE_MS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is read or written before the first request.

        `asleep_ns` is the time that `monotonic_ns` leaves out: after the machine slept, the store's clock is
        read again.
        """
        if not MIN_LEASE_MS <= lease_ms <= MAX_LEASE_MS:
            raise ValueError(f"a lease lasts {MIN_LEASE_MS} to {MAX_LEASE_MS} ms")
        self._keeper = LeaseKeeper(
            RetryingStore(store, codec, new_token=new_token, random_below=random_below, sleep=sleep),
            Machine(host, pid, monotonic_ns, asleep_ns),
            store_name=store_name,
            random_below=random_below,
            new_token=new_token,
            lanes=lane_range or LaneRange(),
            lease_ms=lease_ms,
        )
        self._monotonic_ns = monotonic_ns
        self._sleep = sleep
        self._new_lock()
        _SERVICES.add(self)

    @property
    def token(self) -> UUID:
        """The current identity of this worker. Ids ascend strictly as long as it stays the same."""
        return self._keeper.me.worker.token

    @property
    def lease(self) -> Lease | None:
        """The current lease, if there is one."""
        return self._keeper.me.lease

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        with self.lock:
            issuing = _Issuing(self._keeper)
            replies: list[Reply] = []
            others = 0
            for index, request in enumerate(batch):
                try:
                    if request.kind == "ids.next":
                        replies.append(issuing.reply(index, request.body))
                        continue
                    others += 1
                    replies.append(self._other(request) if others <= _OTHERS_LIMIT else LATER)
                except EsError as error:
                    replies.append(self._keeper.halt_if_store_went_back(error))
            for index, reply in issuing.block_replies():
                replies[index] = reply
            return replies

    def _other(self, request: Request) -> Body:
        keeper = self._keeper
        match request.kind:
            case "ids.lanes":
                if not keeper.me.clock.was_read:
                    keeper.read_clock()
                return show_lanes(keeper.store, keeper.now())
            case "ids.check":
                return check(keeper.store, request.body)
            case "ids.verify":
                return verify(keeper.store)
            case "ids.fence":
                return fence(keeper, request.body)
        raise UnknownRequest(request.kind)

    def next_id(self) -> int:
        """Issue one id to a caller in this process. Raises `EsError`."""
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
                # The clock has not passed the last issued position, or a block used positions ahead of the clock.
                if id_ <= lease.last_id < min(id_ + _NEAR, lease.renew_id - STEP):
                    lease.last_id += STEP
                    return lease.last_id
        finally:
            release()
        return self._next_requested()

    def _next_requested(self) -> int:
        """Issue one id as for any caller: the lease may have to be taken or renewed first."""
        while isinstance(reply := self.handle([Request("ids.next", {"count": 1})])[0], Later):
            self._sleep(0.001)
        if isinstance(reply, EsError):
            raise reply
        return int(reply["ranges"][0]["first"])

    def close(self) -> None:
        """Release the positions that were not issued. If the store is unavailable, the lease runs out."""
        with self.lock:
            with contextlib.suppress(EsError):
                self._keeper.release()
            self._keeper.become_new()

    def drop_lease_after_fork(self) -> None:
        self._new_lock()  # a thread of the parent may have held the lock
        self._keeper.become_child(os.getpid())

    def _new_lock(self) -> None:
        self.lock = threading.Lock()
        self._hot = (self.lock.acquire, self.lock.release, self._monotonic_ns, self._keeper)


class _Issuing:
    """The requests for ids in one batch. A failure of the store is detected once and answers all of them.

    Detecting it for each of 256 requests would take longer than their callers wait.
    """

    def __init__(self, keeper: LeaseKeeper) -> None:
        self._keeper = keeper
        self._is_prepared = False
        self._failure: EsError | None = None
        self._blocks: dict[int, Block] = {}

    def _prepare(self) -> None:
        """Renew the lease if it is due, once per batch."""
        self._is_prepared = True
        try:
            self._keeper.renew_if_due()
        except EsError as error:
            self._failure = self._keeper.halt_if_store_went_back(error)

    def reply(self, index: int, body: Body) -> Reply:
        """Ids from the lease. LATER, if time must pass first or `block_replies` will have the reply."""
        count, at_least = _parse_next(body)
        if not self._is_prepared:
            self._prepare()
        if self._failure is not None:
            return self._failure
        try:
            taken = self._keeper.take(count, at_least)
        except AheadLimit:  # concerns this request alone
            raise
        except EsError as error:
            self._failure = error
            raise
        if taken is None:
            self._blocks[index] = Block(count, at_least)
        return _reply([taken]) if isinstance(taken, Range) else LATER

    def block_replies(self) -> list[tuple[int, Reply]]:
        """The replies to requests that were too large for the lease, each with its index in the batch."""
        if not self._blocks:
            return []
        grant_blocks(self._keeper, list(self._blocks.values()))
        return [(index, block.refused or _reply(block.ranges)) for index, block in self._blocks.items()]


def _parse_next(body: Body) -> tuple[int, int]:
    """The number of ids, and the first position that may be issued (0: any)."""
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


os.register_at_fork(after_in_child=_drop_leases_after_fork)
