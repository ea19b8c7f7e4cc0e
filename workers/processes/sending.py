"""Send the commands of a process and tell what is an answer.

Promise: a command keeps its id, so it has one effect however often it is sent; its addressee remembers the answer, also a
refusal. Refusal: what may change by itself is no answer: an outage, damage, a worker of another version.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from domain.features import Registry
from domain.kernel.errors import EsError, InvalidSetting, Kind, PartUnavailable, UnknownRequest
from domain.kernel.messages import Body
from domain.kernel.ports.transport import Caller
from domain.kernel.process_instance import Issued

TIMEOUT_S = 3.0
"""How long one attempt waits for an answer. A slower one is found at the next attempt."""
_REST_S = (0.2, 5.0)
"""The shortest and the longest time for which nothing is sent to a role that answered nothing."""
_ANSWERS = (Kind.REFUSED, Kind.INVALID, Kind.NOT_FOUND)
_OF_THE_WORKER = (UnknownRequest.code, InvalidSetting.code)
"""Codes of errors that concern the worker that replied, not the command."""


@dataclass(frozen=True, slots=True)
class Sending:
    """A command that has no answer yet."""

    instance: int
    issued: Issued
    correlation_id: UUID | None


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer: `error` is the refusal, or None; `id` is that of the instance that the command changed."""

    error: EsError | None
    id: int = 0


@dataclass(slots=True)
class _Rest:
    until_s: float = 0.0
    length_s: float = 0.0


class Sender:
    """For one thread at a time."""

    def __init__(
        self,
        actor: str,
        *,
        caller: Caller,
        registry: Registry,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._actor = actor
        self._caller = caller
        self._registry = registry
        self._monotonic_s = monotonic_s
        self._rests: dict[str, _Rest] = {}
        self._id_fields = {
            command.request: aggregate.id_field
            for aggregate in registry.aggregates
            for command in aggregate.commands
        }

    def send(self, sendings: Sequence[Sending]) -> list[Answered | EsError]:
        """Send them, many in flight. Returns for each the answer, or the error that is none."""
        replies: dict[int, Answered | EsError] = {}
        by_role: dict[str, list[int]] = {}
        for index, sending in enumerate(sendings):
            by_role.setdefault(self._role_of(sending.issued.request), []).append(index)
        for role, indexes in by_role.items():
            questions = [sendings[index] for index in indexes]
            replies.update(zip(indexes, self._asked(role, questions), strict=True))
        return [replies[index] for index in range(len(sendings))]

    def _asked(self, role: str, sendings: Sequence[Sending]) -> list[Answered | EsError]:
        rest = self._rests.setdefault(role, _Rest())
        if self._monotonic_s() < rest.until_s:
            error = PartUnavailable(f"the {role} worker", "it answered nothing a moment ago")
            return [error for _ in sendings]
        questions = [(sending.issued.request, self._body(sending)) for sending in sendings]
        replies = [
            self._told(sending, reply)
            for sending, reply in zip(
                sendings, self._caller.pipeline(role, questions, timeout_s=TIMEOUT_S), strict=True
            )
        ]
        if any(not isinstance(r, PartUnavailable) for r in replies):
            self._rests.pop(role)
        else:  # the commands to other roles must not wait for this one
            rest.length_s = min(max(2 * rest.length_s, _REST_S[0]), _REST_S[1])
            rest.until_s = self._monotonic_s() + rest.length_s
        return replies

    def _role_of(self, request: str) -> str:
        """The role that handles a command: the first one of its feature."""
        group = request.partition(".")[0]
        feature = self._registry.feature(group)
        return feature.roles[0].name if feature and feature.roles else group

    def _body(self, sending: Sending) -> Body:
        issued = sending.issued
        body: Body = {
            "command_id": str(issued.command_id),
            "actor": self._actor,
            "input": json.loads(issued.input),
            "remember": True,
        }
        if sending.correlation_id is not None:
            body["correlation_id"] = str(sending.correlation_id)
        if issued.is_cancelled:
            body["cancel"] = True
        return body

    def _told(self, sending: Sending, reply: Body | EsError) -> Answered | EsError:
        if not isinstance(reply, EsError):
            id_ = str(reply.get(self._id_fields.get(sending.issued.request, ""), ""))
            return Answered(None, int(id_) if id_.isdecimal() else 0)
        if reply.kind in _ANSWERS and reply.code not in _OF_THE_WORKER:
            return Answered(reply)
        return reply
