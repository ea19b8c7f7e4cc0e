"""What is wrong with the workers, from what `es status` found: one finding per problem, each with its cure."""

from __future__ import annotations

from collections.abc import Iterator

from cli.supervisor import name_of
from domain.kernel.errors import EsError
from domain.kernel.messages import Body

_OWED_S = 10.0
"""An erasure that is owed for so long is a problem, also without an error."""
_SOUND = ("ready", "starting")
_CURES = {
    "waiting": "It recovers when the part is available: `es doctor` examines each part.",
    "silent": "It is suspended or stuck: continue it with `kill -CONT {pid}`, or end it with `kill -9 {pid}`: it is restarted.",
}


def problems(found: Body) -> list[Body]:
    """`{"part", "state", "detail", "next"}` for each problem. `state` is failed, or warning if all requests are served.

    `found["outage"]` is the error of a broker that does not reply: then nothing is known of queues and followers.
    """
    if not found["running"]:
        return [_problem("workers", "no workers are running", "Start them with `es up`.")]
    if found.get("outage"):
        return [unavailable("broker", found["outage"]), *_workers(found)]
    return [*_workers(found), *_queues(found), *_followers(found)]


def unavailable(part: str, error: EsError) -> Body:
    return _problem(part, str(error), error.hint)


def workers(found: Body) -> list[Body]:
    """One finding of `es doctor` for each worker that does its work; `problems` has the others."""
    return [
        {
            "part": f"worker {name_of(worker)}",
            "state": "ok",
            "detail": f"{worker['state']}, process {worker['pid']}, up {worker['uptime_s']:.0f} s",
            "next": "",
        }
        for worker in found["workers"]
        if is_sound(worker)
    ]


def is_sound(worker: Body) -> bool:
    return worker["state"] in _SOUND


def _workers(found: Body) -> Iterator[Body]:
    for worker in found["workers"]:
        if not is_sound(worker):
            error = worker["last_error"]
            detail = f"{worker['state']}: {error['message']}" if error else worker["state"]
            logs = f"`es logs {worker['role']}` shows why."
            cure = _CURES.get(worker["state"], "").format(**worker) or (error or {}).get("hint") or logs
            yield _problem(f"worker {name_of(worker)}", detail, cure)
    unnamed = found["silent"] - sum(worker["state"] == "silent" for worker in found["workers"])
    if unnamed > 0:
        detail = f"{unnamed} of other homes take requests from the broker, but do not report their state"
        yield _problem("workers", detail, "On their machines, `es status` names them.")


def _queues(found: Body) -> Iterator[Body]:
    for queue in found["queues"]:
        part, role = f"queue {queue['role']}", queue["role"]
        if not queue["workers"]:
            cure = f"Start one with `es up`, or with `es workers run {role}`."
            yield _problem(part, f"no worker takes from it; {queue['waiting']} requests wait", cure)
        if queue["dead"]:
            cure = f"Show them with `es dead show {role}`; then retry or drop them."
            yield _problem(part, f"{queue['dead']} dead letters", cure, state="warning")


def _followers(found: Body) -> Iterator[Body]:
    silent = [follower["role"] for follower in found["followers"] if "lag" not in follower]
    silent += [] if found["projections"] else ["projections"]
    for role in dict.fromkeys(silent):
        yield _problem(f"follower {role}", "its worker does not reply", f"`es logs {role}` shows why.")
    for follower in found["followers"]:
        yield from _erasures(follower)
    for state in found["projections"]:
        name = state["projection"]
        if state.get("other_history"):
            cure = f"It is rebuilt by itself: `es projections status {name}`; queries need the new rows."
            detail = "its rows are of another history than the event store, which was restored or replaced"
            yield _problem(f"projection {name}", detail, cure)
        if state["parked"]:
            cure = f"`es logs projections` shows the errors. Correct the cause, then `es projections rebuild {name}`."
            detail = f"{state['parked']} parked events: rows lack them"
            yield _problem(f"projection {name}", detail, cure, state="warning")


def _erasures(progress: Body) -> Iterator[Body]:
    """What a follower knows of owed erasures, quarantined events and other histories; only `erasures` does."""
    owed = sum(progress.get("owed", {}).values())
    if owed and (progress["failing"] or progress["oldest_s"] > _OWED_S):
        why = f": {progress['reason']}" if progress["reason"] else ""
        detail = (
            f"{owed} erasures are decided and not completed, the oldest for {progress['oldest_s']:.0f} s{why}"
        )
        yield _problem("erasures", detail, "`es gdpr status` lists them; `es gdpr resume` tries at once.")
    if progress.get("quarantined"):
        detail = f"{progress['quarantined']} events of another program read like an erasure or a deletion"
        cure = "`es gdpr status` lists them: nothing is erased because of them. Find what wrote them."
        yield _problem("quarantine", detail, cure, state="warning")
    for each in progress.get("divergences", []):
        detail = (
            f"{each['process']} had read up to position {each['seen']}, but the event store has another history after"
            f" {each['back_to']}: an older copy was restored, or the store was swapped; it went on from there"
        )
        cure = "If the store was restored or exchanged on purpose, `es down` and `es adopt --moved` end this message."
        catches_up = progress["lag"] and progress["position"] < each["seen"]
        yield _problem("history", detail, cure, state="failed" if catches_up else "warning")


def _problem(part: str, detail: str, cure: str, *, state: str = "failed") -> Body:
    return {"part": part, "state": state, "detail": detail, "next": cure}
