"""Queries of the `processes` role: how far each process is, what is open, and why an instance is in quarantine.

Promise: an operator sees each instance that cannot go on, with its reason. Refusal: nothing is noted or sent here; `retry`
only asks the manager to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from domain.kernel.errors import EsError, InvalidInput, Kind, UnknownRequest
from domain.kernel.ids import parse_id, time_text
from domain.kernel.messages import LATER, Body, Reply, Request
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.worklist import OpenInstance, Worklist
from domain.kernel.streams import remaining
from workers.processes.instances import Instances, Read
from workers.processes.manager import Manager
from workers.runtime.event_bodies import event_body
from workers.runtime.followers import progress
from workers.runtime.pages import fit
from workers.runtime.queries import limit_of, text, whole

_COUNTED = 10_000
"""Instances of a process are counted up to this number."""


class InstanceNotFound(EsError):
    """No such instance is open."""

    process: str
    instance: int
    code = "instance-not-found"
    kind = Kind.NOT_FOUND
    hint = "`es processes list` shows the open instances."

    def __str__(self) -> str:
        return f"the process {self.process} has no instance {self.instance}"


class ProcessesService:
    def __init__(
        self,
        managers: Sequence[Manager],
        *,
        store: EventStore,
        codec: Codec,
        worklist: Worklist,
        instances: dict[str, Instances],
        now_us: Callable[[], int],
    ) -> None:
        """`instances` are the readers of the streams of each process."""
        self._managers = managers
        self._store = store
        self._codec = codec
        self._worklist = worklist
        self._instances = instances
        self._now_us = now_us

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        replies: list[Reply] = []
        for request in batch:
            try:
                replies.append(self._answer(request))
            except EsError as error:
                replies.append(error)
        return replies

    def close(self) -> None:
        """Nothing is held between batches."""

    def _answer(self, request: Request) -> Reply:
        match request.kind:
            case "processes.progress":
                return self._progress()
            case "processes.list":
                return self._list(request)
            case "processes.show":
                return self._show(*self._target(request))
            case "processes.retry":
                return self._retry(request)
        return UnknownRequest(request.kind)

    # --- all of them ---------------------------------------------------------------------------

    def _progress(self) -> Body:
        """`{"position", "head", "lag", "processes"}`: the first three of the process that is most behind."""
        each = [self._state(manager) for manager in self._managers]
        behind = min((state["position"] for state in each), default=self._store.head())
        return {
            **progress(self._store, behind),
            "processes": each,
        }

    def _state(self, manager: Manager) -> Body:
        backlog = self._worklist.backlog(manager.name, limit=_COUNTED)
        return {
            "process": manager.name,
            **progress(self._store, manager.reached),
            "open": backlog.open,
            "quarantined": backlog.quarantined,
        }

    def _list(self, request: Request) -> Body:
        """`{"instances", "next"}`: open instances in order of process and id."""
        limit = limit_of(request)
        name = text(request, "after_process")
        after = (name, whole(request, "after_instance", 0)) if name else None
        only = request.body.get("quarantined") is True
        found = self._worklist.instances(after=after, quarantined=only, limit=limit + 1)
        rows, more = fit(request, map(self._row, found[:limit]), len(found))
        following = None
        if more and rows:
            last = rows[-1]
            following = {"after_process": last["process"], "after_instance": int(last["instance"])}
        return {"instances": rows, "next": following}

    def _row(self, listed: OpenInstance) -> Body:
        due_us = listed.due_us
        return {
            "process": listed.process,
            "instance": str(listed.instance),
            "state": "quarantined" if listed.error else "waiting" if due_us is None else "open",
            "opened_at": time_text(listed.opened_at_us),
            "due_at": None if due_us is None else time_text(max(due_us, 0)),
            "attempts": listed.attempts,
            "held": listed.held,
            "reason": listed.error or listed.waits_for or None,
        }

    # --- one instance --------------------------------------------------------------------------

    def _target(self, request: Request) -> tuple[str, int]:
        name = text(request, "process")
        if name not in self._instances:
            known = ", ".join(self._instances) or "none is registered"
            raise InvalidInput("process", f"must be the name of a process: {known}")
        given = request.body.get("instance")
        # 0 stands for the instance of events that cannot be read.
        return name, 0 if given in (0, "0") else parse_id(given, field="instance")

    def _show(self, name: str, instance: int) -> Body:
        """The instance as the list and its stream tell: its state, what is open, and its history."""
        listed = self._worklist.instance(name, instance)
        reader = self._instances[name]
        read = reader.read([instance])[instance]
        if listed is None and not read.exists:
            raise InstanceNotFound(name, instance)
        found = read.instance
        held = self._worklist.held(name, instance, limit=100)
        return {
            "process": name,
            "instance": str(instance),
            **(self._row(listed) if listed else {"state": "ended", "reason": None}),
            **({"reason": read.error} if read.error else {}),
            "outcome": found.outcome or None,
            "rules": found.rules,
            "data": repr(found.state) if found.state is not None else None,
            "commands": [
                {
                    "step": issued.step,
                    "command_id": str(issued.command_id),
                    "request": issued.request,
                    "input": issued.input,
                    "cancelled": issued.is_cancelled,
                }
                for issued in found.issued.values()
            ],
            "timers": [
                {"timer": each, "due_at": time_text(timer.due_us)} for each, timer in found.timers.items()
            ],
            "held_positions": held,
            "history": self._history(reader.stream_of(instance), read),
        }

    def _history(self, stream: str, read: Read) -> list[Body]:
        events, _ = remaining(self._store, [stream])[stream] if read.exists else ((), None)
        return [self._event(recorded) for recorded in events[-200:]]

    def _event(self, recorded: Any) -> Body:
        try:
            type_, data = self._codec.stored(recorded)
        except EsError as error:
            type_, data = recorded.type, {"unreadable": error.code}
        body = event_body(recorded, None, type_, data)
        return {name: body[name] for name in ("version", "time", "position", "type", "data")}

    def _retry(self, request: Request) -> Reply:
        """`LATER` until the manager has looked at the instance: then its row, or that it ended."""
        name, instance = self._target(request)
        if "asked" not in request.memo:
            if not self._worklist.retry(name, instance, now_us=self._now_us()):
                raise InstanceNotFound(name, instance)
            request.memo["asked"] = True
            return LATER
        listed = self._worklist.instance(name, instance)
        if listed is None:
            return {"process": name, "instance": str(instance), "state": "ended", "reason": None}
        if listed.error and listed.due_us is not None:
            return LATER
        return self._row(listed)
