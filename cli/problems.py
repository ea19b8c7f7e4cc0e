"""What is wrong with the workers, from what `es status` found: one finding per problem, each with its cure."""

from __future__ import annotations

from collections.abc import Iterator

from cli.supervisor import name_of
from domain.kernel.errors import EsError
from domain.kernel.messages import Body

_OWED_S = 10.0
"""An erasure that is owed for so long is a problem, also without an error."""
_CURES = {
    "waiting": "It recovers when the part is available: `es doctor` examines each part.",
    "silent": "It is suspended or stuck: continue it with `kill -CONT {pid}`, or end it with `kill -9 {pid}`: it is restarted.",
}
_PARKED_CURES = {
    "current": "`es projections parked list {name}` shows the errors. Correct the cause, then "
    "`es projections parked retry {name} --all`; after a new version of the code also `es projections rebuild {name}`.",
    "building": "`es logs projections` shows the errors. Correct the cause, then `es projections cancel {name}` and rebuild; "
    "or wait for the switch, then `es projections parked list {name}`.",
}
"""By the state of the generation. One that is checked reports them itself, and a retired one serves nothing."""


OTHER_CODE = "its rows were built by other code"


def other_code_cure(projection: str) -> str:
    return f"Compare them with those of the present code: `es projections rebuild {projection} --check`."


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
    """Whether it serves, or starts for the first time. One that starts after it ended may well end again."""
    return worker["state"] == "ready" or (worker["state"] == "starting" and not worker["last_error"])


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
        yield from _processes(follower)
    for state in found["projections"]:
        name = state["projection"]
        if state.get("other_history"):
            cure = f"It is rebuilt by itself: `es projections status {name}`; queries need the new rows."
            detail = "its rows are of another history than the event store, which was restored or replaced"
            yield _problem(f"projection {name}", detail, cure)
        if state["state"] == "current" and state.get("other_code"):
            yield _problem(f"projection {name}", OTHER_CODE, other_code_cure(name), state="warning")
        if state["parked"] and state["state"] in _PARKED_CURES:
            cure = _PARKED_CURES[state["state"]].format(name=name)
            which = "" if state["state"] == "current" else f" in the {state['state']} generation"
            detail = f"{state['parked']} parked events{which}: rows lack them"
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


def _processes(progress: Body) -> Iterator[Body]:
    """What a follower knows of process managers; only `processes` does."""
    for state in progress.get("processes", []):
        if state["quarantined"]:
            detail = f"{state['quarantined']} instances cannot go on; the others do"
            cure = (
                "`es processes list --quarantined` shows why. Fix the cause, then `es processes retry "
                f"{state['process']} ID`."
            )
            yield _problem(f"process {state['process']}", detail, cure)


def _problem(part: str, detail: str, cure: str, *, state: str = "failed") -> Body:
    return {"part": part, "state": state, "detail": detail, "next": cure}
