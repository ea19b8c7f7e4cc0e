"""Blocks that are too large for a lease: grants of exactly as many positions as were asked for.

Promise: each is a grant of its own on a lane of its own, in the present, and its lane is free again when its
positions have passed. Refusal: nothing reaches further ahead than a second, so the largest come in pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from domain.kernel.errors import EsError
from domain.kernel.ids import Range, compose
from domain.lanes import grants, layout
from domain.lanes.errors import NoFreeLane
from domain.lanes.grants import Known, Lane, LaneGranted
from domain.lanes.layout import AHEAD, ORDERED_COUNT
from workers.ids.lease_keeper import RACES, LaneKeeper


@dataclass(slots=True)
class Block:
    """One request for many ids, and what has become of it so far."""

    remaining: int
    at_least: int
    ranges: list[Range] = field(default_factory=list)
    refused: EsError | None = None

    @property
    def is_waiting(self) -> bool:
        return self.refused is None and self.remaining > 0


def grant_blocks(keeper: LaneKeeper, blocks: Sequence[Block]) -> None:
    """Grant all, or refuse. What a refused one was granted before is never used: its lanes are free in a second."""
    error: EsError = NoFreeLane(len(keeper.range), None)
    try:
        for _ in range(RACES):
            waiting = [block for block in blocks if block.is_waiting]
            if not waiting:
                return
            _grant_round(keeper, waiting)
    except EsError as caught:
        error = keeper.note(caught)
    for block in blocks:
        if block.is_waiting:
            block.refused = error


def _grant_round(keeper: LaneKeeper, blocks: Sequence[Block]) -> None:
    """One append for all; blocks that lost a race for a lane go on waiting."""
    keeper.look_at_clock()
    now = keeper.now()
    wanted = [(block, lengths) for block in blocks if (lengths := _lengths(block, now))]
    found, free_at = keeper.search(sum(len(lengths) for _, lengths in wanted)) if wanted else ([], None)
    items: list[tuple[Block, Lane, LaneGranted]] = []
    for block, lengths in wanted:
        if len(lengths) > len(found):
            block.refused = NoFreeLane(len(keeper.range), free_at)
            continue
        for length in lengths:
            lane = found.pop()
            decided = grants.decide_grant(
                lane, keeper.me.worker, now=keeper.now(), at_least=block.at_least, length=length
            )
            if isinstance(decided, list):
                items.append((block, lane, decided[0]))
    _append(keeper, items)


def _lengths(block: Block, now: int) -> list[int]:
    """How many positions on each lane; none, and the block is refused, where that would be too far ahead."""
    room = now + AHEAD - max(now, block.at_least)
    if room < min(block.remaining, ORDERED_COUNT):
        block.refused = grants.ahead_limit(block.at_least + ORDERED_COUNT, now)
        return []
    whole, rest = divmod(block.remaining, room)
    return [room] * whole + [rest] * (rest > 0)


def _append(keeper: LaneKeeper, items: Sequence[tuple[Block, Lane, LaneGranted]]) -> None:
    if not items:
        return
    attempt = keeper.store.attempt(
        [(layout.stream_of(lane.number), lane.version, [grant]) for _, lane, grant in items], "grant-block"
    )
    for (block, lane, grant), version in zip(items, keeper.store.settle(attempt), strict=True):
        if version is not None:
            count = grant.until_position - grant.from_position
            block.ranges.append(Range(compose(grant.from_position, lane.number), count))
            block.remaining -= count
            keeper.known[lane.number] = Known(version, grant.until_position)
