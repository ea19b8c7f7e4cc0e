"""The state of the system as a client sees it: workers, queues, and the lag of projections and other followers.

`es status` shows it, and a load run samples it. Promise: a part that does not reply is missing in it, or is its `outage`.
Refusal: nothing is judged here, and nothing is started.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from adapters.wiring import open_dead_letters, usual_roles, workers_everywhere
from domain.features import registry
from domain.kernel.errors import EsError, Kind, PartUnavailable
from es.supervisor import ask_supervisor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapters.settings import Settings
    from domain.kernel.messages import Body

_PROGRESS_WAIT_S = 2.0
_ROLL_CALL_WAIT_S = 1.0


class Ask(Protocol):
    """Sends one request and returns its reply, like `Connection.ask`."""

    def __call__(self, role: str, kind: str, body: Mapping[str, Any], *, timeout_s: float) -> Body: ...


def state_of(settings: Settings, ask: Ask) -> Body:
    """`{"home", "running", "workers", "silent", "queues", "projections", "followers", …}`. Raises PartUnavailable.

    The supervisor reports the workers of this home. With a broker, workers may run on any machine: all are asked, and
    `silent` is the number of those that did not reply. `outage` is the error of a broker that does not reply.
    """
    supervised = ask_supervisor(settings, "supervisor.status")
    found: Body = {
        "home": str(settings.home),
        "running": supervised is not None,
        "workers": [],
        "silent": 0,
        "queues": [],
        "projections": [],
        "followers": [],
        **(supervised or {}),
    }
    if not settings.is_local:
        try:
            _add_workers_everywhere(found, settings)
        except PartUnavailable as error:
            if supervised is None:
                raise
            # Show the workers of this home all the same; no request can reach them now.
            found["outage"] = error
            return found
    if found["running"]:
        found |= progress_of(settings, ask)
    return found


def progress_of(settings: Settings, ask: Ask) -> Body:
    """`{"projections", "followers"}` of `state_of`: how far each projection and follower is."""
    roles = [role.name for role in usual_roles(settings) if role.follows]
    return {
        "projections": _progress(ask, "projections", "projections.status").get("projections", []),
        "followers": [{"role": role, **_progress(ask, role, f"{role}.progress")} for role in roles],
    }


def queues_of(settings: Settings) -> list[Body]:
    """The queues of the broker: `{"role", "waiting", "workers", "dead"}`. Raises PartUnavailable."""
    counts = open_dead_letters(settings, [role.name for role in usual_roles(settings)]).counts()
    return [asdict(queue) for queue in counts]


def _add_workers_everywhere(found: Body, settings: Settings) -> None:
    """Add the queues of the broker, and the workers that are not of this home."""
    found["queues"] = queues_of(settings)
    expected = sum(queue["workers"] for queue in found["queues"])
    replies = workers_everywhere(settings, expected=expected, wait_s=_ROLL_CALL_WAIT_S) if expected else []
    ours = {(worker["host"], worker["pid"]) for worker in found["workers"]}
    others = [worker for worker in replies if (worker["host"], worker["pid"]) not in ours]
    order = registry(settings.features).role_names
    others.sort(key=lambda worker: (order.index(worker["role"]), worker["host"], worker["pid"]))
    found["workers"] += [{**worker, "restarts": None} for worker in others]
    found["silent"] = max(expected - len(replies), 0)
    if found["silent"]:
        replied = {(worker["host"], worker["pid"]) for worker in replies}
        for worker in found["workers"]:
            if (worker["host"], worker["pid"]) not in replied and worker["state"] == "ready":
                worker["state"] = "silent"
    found["running"] = found["running"] or expected > 0


def _progress(ask: Ask, role: str, kind: str) -> Body:
    """The progress of the role's followers; empty if no worker can report it now."""
    try:
        return ask(role, kind, {}, timeout_s=_PROGRESS_WAIT_S)
    except EsError as error:
        if error.kind is not Kind.UNAVAILABLE:
            raise
        return {}
