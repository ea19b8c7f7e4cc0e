"""Blocks: requests too large for the lease, answered by grants of exactly the requested number of positions.

Promise: each grant lies in the present, on a lane of its own, which is free again when its positions have
passed. Refusal: no grant reaches more than a second ahead, so the largest blocks come in several ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from domain.kernel.errors import EsError
from domain.kernel.ids import Range, compose
from domain.lanes import grants
from domain.lanes.errors import NoFreeLane
from domain.lanes.events import LaneGranted, lane_stream
from domain.lanes.grants import Lane
from domain.lanes.limits import AHEAD, ORDERED_COUNT
from workers.ids.lease_keeper import LeaseKeeper
from workers.ids.retrying_store import CONFLICTS_MAX


@dataclass(slots=True)
class Block:
    """One request for many ids, and the ranges that were granted for it so far."""

    remaining: int
    at_least: int
    ranges: list[Range] = field(default_factory=list)
    refused: EsError | None = None

    @property
    def is_waiting(self) -> bool:
        return self.refused is None and self.remaining > 0


def grant_blocks(keeper: LeaseKeeper, blocks: Sequence[Block]) -> None:
    """Grant each block completely or refuse it. The partial grants of a refused block are never used."""
    error: EsError = NoFreeLane(len(keeper.lanes), None)
    try:
        for _ in range(CONFLICTS_MAX):
            waiting = [block for block in blocks if block.is_waiting]
            if not waiting:
                return
            _grant_round(keeper, waiting)
    except EsError as caught:
        error = keeper.halt_if_store_went_back(caught)
    for block in blocks:
        if block.is_waiting:
            block.refused = error


def _grant_round(keeper: LeaseKeeper, blocks: Sequence[Block]) -> None:
    """One append for all blocks. A block whose lane was granted to another worker waits for the next round."""
    keeper.read_clock()
    now = keeper.now()
    wanted = [(block, lengths) for block in blocks if (lengths := _lengths(block, now))]
    found, free_at = keeper.search.find(sum(len(lengths) for _, lengths in wanted)) if wanted else ([], None)
    items: list[tuple[Block, Lane, LaneGranted]] = []
    for block, lengths in wanted:
        if len(lengths) > len(found):
            block.refused = NoFreeLane(len(keeper.lanes), free_at)
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
    """The number of positions on each lane. None, and the block is refused, if they would be too far ahead."""
    room = now + AHEAD - max(now, block.at_least)
    if room < min(block.remaining, ORDERED_COUNT):
        block.refused = grants.ahead_limit(block.at_least + ORDERED_COUNT, now)
        return []
    whole, rest = divmod(block.remaining, room)
    return [room] * whole + [rest] * (rest > 0)


def _append(keeper: LeaseKeeper, items: Sequence[tuple[Block, Lane, LaneGranted]]) -> None:
    if not items:
        return
    attempt = keeper.store.attempt(
        [(lane_stream(lane.number), lane.version, [grant]) for _, lane, grant in items], "grant-block"
    )
    for (block, lane, grant), version in zip(items, keeper.store.settle(attempt), strict=True):
        if version is not None:
            count = grant.until_position - grant.from_position
            block.ranges.append(Range(compose(grant.from_position, lane.number), count))
            block.remaining -= count
            keeper.known.note(lane.number, version, grant.until_position)
