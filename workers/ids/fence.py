"""The command `ids.fence`: after an older copy of the store was restored, raise every lane beyond the lost part.

Promise: a retry finds the floor that the first try decided, on any worker. Refusal: no lane is lowered and no
grant is revoked.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from domain.kernel.commands import parse_command_id
from domain.kernel.events import NO_STREAM, Metadata, event_id
from domain.kernel.ids import compose, time_text, time_us_of
from domain.kernel.messages import Body
from domain.kernel.ports.event_store import Append
from domain.lanes import fences
from domain.lanes.errors import StoreWentBack
from domain.lanes.events import IdsFenced, fence_stream, lane_stream
from domain.lanes.fences import Known
from workers.ids.lease_keeper import LeaseKeeper
from workers.ids.retrying_store import CONFLICTS_MAX, Attempt


def fence(keeper: LeaseKeeper, body: Body) -> Body:
    """Fence all lanes. `resumes_at` in the reply is the time from which on ids are issued again."""
    command_id = parse_command_id(body.get("command_id"))
    known = keeper.known.all()
    # Before the first read: this worker's lease and its own stream may be in the lost part of the store.
    keeper.start_over()
    keeper.read_clock()
    floor = _floor(keeper, command_id, known, body.get("workers_stopped") is True)
    for _ in range(CONFLICTS_MAX):
        if not _raise_lanes(keeper, floor):
            break
    return {
        "command_id": str(command_id),
        "lanes": len(keeper.lanes),
        "floor": str(compose(floor, 0)),
        "resumes_at": time_text(time_us_of(floor)),
    }


def _floor(keeper: LeaseKeeper, command_id: UUID, known: Sequence[Known], workers_stopped: bool) -> int:
    """The floor of this command: decided and stored once, read back by a retry."""
    stream = fence_stream(command_id)
    recorded = keeper.store.read(stream, limit=1)
    if not recorded:
        decided = fences.decide_floor(known, now=keeper.now(), workers_stopped=workers_stopped)
        metadata = Metadata(command_id, "fence-ids", command_id, command_id, "process:ids")
        # The event id is not random: two workers that run this command must store the same event.
        data = keeper.store.encode(decided, event_id(command_id, 0), metadata)
        keeper.store.settle(Attempt([Append(stream, NO_STREAM, [data])]))
        recorded = keeper.store.read(stream, limit=1)
    if not recorded:
        raise StoreWentBack(stream, 0, NO_STREAM)
    stored = keeper.store.decode(recorded[0])
    assert isinstance(stored, IdsFenced)
    return stored.floor


def _raise_lanes(keeper: LeaseKeeper, floor: int) -> bool:
    """Raise each lane that is below the floor; False if there was none."""
    items = []
    for number in keeper.lanes.numbers():
        lane = keeper.search.read(number)
        fenced = fences.decide_fence(lane, floor, keeper.now())
        if fenced:
            items.append((lane_stream(number), lane.version, fenced))
    if items:
        keeper.store.settle(keeper.store.attempt(items, "lift-lane"))
    return bool(items)
