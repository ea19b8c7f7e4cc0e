"""Compare claims on unique values with the streams that decide them, for `es doctor --deep`.

Promise: an instance is reported only if the vault and its stream, read again, still disagree. Refusal: a claim that is to be
released yet is no finding, because the process that settles claims may be behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from adapters.clock import now_us
from domain.kernel.aggregate import Aggregate
from domain.kernel.errors import Damaged, EsError
from domain.kernel.events import Event
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import Claim, ClaimState, DestroyedKey, Vault
from domain.kernel.unique import Unique, takers

_TRIES = 3
_PAUSE_S = 0.3
"""The time between two looks at an instance: a command may be under way."""


class UniqueCheck:
    def __init__(
        self,
        aggregates: Sequence[Aggregate[Any, Any]],
        *,
        store: EventStore,
        codec: Codec,
        vault: Vault,
        problems: Callable[[str, str], None],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rules = {aggregate.prefix: aggregate.unique for aggregate in aggregates if aggregate.unique}
        self._store = store
        self._codec = codec
        self._vault = vault
        self._problems = problems
        self._pause = pause

    def check_streams(self, streams: Collection[str]) -> None:
        """An open instance has a claim on each of its values."""
        ours = [stream for stream in streams if self._rules_of(stream)]
        claims = self._claims_on(ours)
        self._look_again([s for s in ours if self._without_claim(s, claims.get(s, ()))], self._missing)

    def check_subjects(self, subjects: Sequence[int], known: Callable[[set[str]], Mapping[str, Any]]) -> None:
        """A confirmed claim belongs to a stream with events. `known` returns those of some streams that have any."""
        claims = self._vault.claims_of(subjects, now_us=now_us())
        streams = {claim.stream for claim in claims if claim.stream and claim.state is ClaimState.CONFIRMED}
        self._look_again([*(streams - known(streams).keys())] if streams else [], self._foreign)

    def _look_again(self, streams: Sequence[str], problem_of: Callable[[str], str | None]) -> None:
        """Report each problem that is still there after a command that is under way has had time to end."""
        problems = dict.fromkeys(streams, "")
        for _ in range(_TRIES):
            if not problems:
                return
            self._pause(_PAUSE_S)  # once for all of them
            again = {stream: problem_of(stream) for stream in problems}
            problems = {stream: problem for stream, problem in again.items() if problem}
        for problem in problems.values():
            self._problems("vault", problem)

    def _missing(self, stream: str) -> str | None:
        # The stream before the vault: a claim is reserved before its event is stored.
        rules = self._held(stream)
        claims = self._claims_on([stream]).get(stream, ())
        names = [rule.name for rule, commands in rules if not _has_claim(rule, commands, claims)]
        return f"{stream} has no claim on its {' and its '.join(names)}" if names else None

    def _without_claim(self, stream: str, claims: Sequence[Claim]) -> bool:
        return any(not _has_claim(rule, commands, claims) for rule, commands in self._held(stream))

    def _foreign(self, stream: str) -> str | None:
        claims = [c for c in self._claims_on([stream]).get(stream, ()) if c.state is ClaimState.CONFIRMED]
        if not claims:
            return None
        with suppress(Damaged):  # it was reported when the events were read
            if next(iter(self._store.read_stream(stream, limit=1)), None) is None:
                return f"{stream} has a claim on its {claims[0].rule}, but no events"
        return None

    def _claims_on(self, streams: Sequence[str]) -> dict[str, list[Claim]]:
        found: dict[str, list[Claim]] = {}
        for claim in self._vault.claims_on(streams, now_us=now_us()) if streams else ():
            found.setdefault(claim.stream, []).append(claim)
        return found

    # --- what a stream says ----------------------------------------------------------------------

    def _rules_of(self, stream: str) -> Sequence[Unique]:
        return self._rules.get(stream.rpartition("-")[0] + "-", ())

    def _held(self, stream: str) -> list[tuple[Unique, list[Any]]]:
        """The rules whose values the instance has, each with the commands that took the value."""
        found = []
        with suppress(EsError):  # it was reported when the events were read
            for rule in self._rules_of(stream):
                commands = takers(rule, self._history(stream))
                if commands and not self._is_of_erased(rule, stream):
                    found.append((rule, commands))
        return found

    def _history(self, stream: str) -> Iterator[tuple[Event | None, Any]]:
        for recorded in self._store.read_stream(stream):
            yield self._codec.outline(recorded), self._codec.metadata(recorded).command_id

    def _is_of_erased(self, rule: Unique, stream: str) -> bool:
        """Whether the person of the value is erased, or no event tells the person."""
        if rule.person is None:
            return False
        people = {
            getattr(self._codec.decode(recorded), rule.person, None)
            for recorded in self._store.read_stream(stream)
            if isinstance(self._codec.outline(recorded), rule.taken_by)
        }
        subjects = [int(person) for person in people if isinstance(person, int | str)]
        keys = self._vault.data_keys(subjects) if subjects else {}
        return not subjects or any(isinstance(key, DestroyedKey) for key in keys.values())


def _has_claim(rule: Unique, commands: Collection[Any], claims: Sequence[Claim]) -> bool:
    return any(claim.rule == rule.name and claim.command_id in commands for claim in claims)
