"""The queries about lanes: their holders, the grant of an id, and the proof that no two grants overlap.

Promise: all replies come from the store, none from a worker's memory. Refusal: nothing is written.
"""

from __future__ import annotations

from typing import Any

from domain.kernel.errors import InvalidInput
from domain.kernel.events import NO_STREAM
from domain.kernel.ids import LANES, decode, parse_id, time_text, time_us_of
from domain.kernel.messages import Body
from domain.lanes import grants
from domain.lanes.events import LaneGranted, lane_stream
from domain.lanes.grants import TAIL
from domain.lanes.history import Grant, LaneHistory
from domain.lanes.limits import CHECK_MAX
from workers.ids.retrying_store import RetryingStore


def show_lanes(store: RetryingStore, now: int) -> Body:
    """Every lane that was ever used, with its standing at `now`, a position."""
    shown = (_shown_lane(store, number, now) for number in range(LANES))
    return {"lanes": [lane for lane in shown if lane is not None]}


def _shown_lane(store: RetryingStore, number: int, now: int) -> Body | None:
    tail = [
        (recorded.version, store.decode(recorded)) for recorded in store.read_tail(lane_stream(number), TAIL)
    ]
    if not tail:
        return None
    lane = grants.lane_from_tail(number, tail)
    last = next((event for _, event in reversed(tail) if isinstance(event, LaneGranted)), None)
    return {
        "lane": number,
        "status": grants.standing(lane, now).value,
        "worker": last.owner if last else None,
        "host": last.host if last else None,
        "pid": last.pid if last else None,
        "from": time_text(time_us_of(lane.from_position)),
        "until": time_text(time_us_of(lane.until)),
        "quarantined": lane.quarantined or None,
        "version": lane.version,
    }


def check(store: RetryingStore, body: Body) -> Body:
    """For each id its grant, or that its position was never granted."""
    values = body.get("ids")
    if not isinstance(values, list) or not 1 <= len(values) <= CHECK_MAX:
        raise InvalidInput("ids", f"must be a list of 1 to {CHECK_MAX} ids")
    decoded = [decode(parse_id(value)) for value in values]
    histories = {lane: _history(store, lane) for lane in {item.lane for item in decoded}}
    answers: list[Body] = []
    for item in decoded:
        grant = histories[item.lane].covering(item.position)
        answer: Body = {"id": str(item.id), "lane": item.lane, "time": time_text(item.time_us)}
        answers.append(answer | (_shown_grant(grant) if grant else {"status": "never granted"}))
    return {"ids": answers}


def verify(store: RetryingStore) -> Body:
    """Audit the streams of all lanes. Each problem is a sentence."""
    histories = [_history(store, lane) for lane in range(LANES)]
    problems = [problem for history in histories for problem in history.problems]
    return {
        "ok": not problems,
        "lanes": sum(history.version != NO_STREAM for history in histories),
        "grants": sum(len(history.grants) for history in histories),
        "quarantines": sum(history.quarantines for history in histories),
        "problems": problems,
    }


def _history(store: RetryingStore, lane: int) -> LaneHistory:
    history = LaneHistory(lane)
    for recorded in store.read(lane_stream(lane)):
        history.add(recorded.version, recorded.recorded_at_us, store.decode(recorded))
    return history


def _shown_grant(grant: Grant) -> dict[str, Any]:
    return {
        "status": "granted",
        "worker": grant.owner,
        "host": grant.host,
        "pid": grant.pid,
        "granted_at": time_text(grant.granted_at_us),
        "from": time_text(time_us_of(grant.from_position)),
        "until": time_text(time_us_of(grant.until)),
    }
