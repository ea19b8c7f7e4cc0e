"""`ids.fence`: after an older copy of the store was restored, lift every lane beyond what may have been lost.

Promise: repeating the command finds the floor that it decided first, whichever worker carries it out.
Refusal: no lane is ever lowered, and nothing that was granted is taken away.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from domain.kernel.errors import InvalidInput
from domain.kernel.events import NO_STREAM, Metadata, event_id
from domain.kernel.ids import compose, time_text, time_us_of
from domain.kernel.messages import Body
from domain.kernel.ports.event_store import Append
from domain.lanes import grants, layout
from domain.lanes.errors import StoreWentBack
from domain.lanes.grants import IdsFenced, Known
from workers.ids.lease_keeper import RACES, LaneKeeper
from workers.ids.sure_store import Attempt


def fence(keeper: LaneKeeper, body: Body) -> Body:
    """Carry the command out; `resumes_at` is when ids flow again."""
    try:
        command_id = UUID(body.get("command_id"))
    except (ValueError, TypeError, AttributeError):
        raise InvalidInput("command_id", "is not a UUID") from None
    known = list(keeper.known.values())
    # Whatever this worker held may be what was lost; and its own stream may be shorter than it knows.
    keeper.start_over()
    keeper.look_at_clock()
    floor = _floor(keeper, command_id, known, body.get("workers_stopped") is True)
    for _ in range(RACES):
        if not _lift_lanes(keeper, floor):
            break
    return {
        "command_id": str(command_id),
        "lanes": len(keeper.range),
        "floor": str(compose(floor, 0)),
        "resumes_at": time_text(time_us_of(floor)),
    }


def _floor(keeper: LaneKeeper, command_id: UUID, known: Sequence[Known], workers_stopped: bool) -> int:
    """The floor of this command: decided once, found again when it is repeated."""
    stream = layout.fence_stream(command_id)
    recorded = keeper.store.read(stream, limit=1)
    if not recorded:
        decided = grants.decide_floor(known, now=keeper.now(), workers_stopped=workers_stopped)
        metadata = Metadata(command_id, "fence-ids", command_id, command_id, "process:ids")
        # Not random here: this event is of the command, whichever worker carries it out.
        data = keeper.store.encode(decided, event_id(command_id, 0), metadata)
        keeper.store.settle(Attempt([Append(stream, NO_STREAM, [data])]))
        recorded = keeper.store.read(stream, limit=1)
    if not recorded:
        raise StoreWentBack(stream, 0, NO_STREAM)
    stored = keeper.store.decode(recorded[0])
    assert isinstance(stored, IdsFenced)
    return stored.floor


def _lift_lanes(keeper: LaneKeeper, floor: int) -> bool:
    """One round over all lanes; False when none was left to lift."""
    items = []
    for number in keeper.range.numbers():
        lane = keeper.read_lane(number)
        lifted = grants.decide_lift(lane, floor, keeper.now())
        if lifted:
            items.append((layout.stream_of(number), lane.version, lifted))
    if items:
        keeper.store.settle(keeper.store.attempt(items, "lift-lane"))
    return bool(items)
