"""Bulks of users against a project in containers, and the check that none is lost or doubled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.support import effort
from tests.support.containers.project import Project
from tests.support.people import errors, ndjson, people
from tests.support.runs import Ran
from tests.support.waiting import eventually

RETRIED = {"unavailable", "lease-exhausted"}
"""The errors of a bulk while a part is unavailable: a retry is safe."""
WITHOUT_END = ("--limit", "1000000")


class Accounts:
    """The users that a project confirmed."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.created: dict[str, str] = {}
        """The user id by command id."""

    def repeat(self, inputs: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
        """Repeat a bulk until every line succeeds. Until then the only errors are of unavailable parts."""

        def complete() -> Ran | None:
            ran = self._project.es("users", "create", "--from", "-", "--json", given=ndjson(inputs))
            assert set(errors(ran.objects)) <= RETRIED, ran
            return ran if ran.code == 0 else None

        answers = eventually(complete, "every line succeeds", within_s=effort.BULK_S).objects
        self.created |= {answer["command_id"]: answer["user_id"] for answer in answers}
        return answers

    def create_while_killed(self, service: str, count: int) -> None:
        """Kill the first container of a service while a bulk runs, then repeat the bulk."""
        inputs = people(count, prefix=f"{self._project.name}-{service}-")
        bulk = self._project.start_es("users", "create", "--from", "-", "--json", given=ndjson(inputs))
        eventually(lambda: bulk.answers() >= count // 10 or bulk.has_ended, "the bulk runs")
        before = bulk.answers()
        self._project.kill(service)
        first = bulk.end()
        print(
            f"{service}: killed after {before} of {count}; {len(errors(first.objects))} answers were errors"
        )
        assert before < count, "there was nothing left to interrupt"
        assert set(errors(first.objects)) <= RETRIED, first
        again = {answer["command_id"]: answer for answer in self.repeat(inputs)}
        for answer in first.objects:
            assert "error" in answer or answer == again[answer["command_id"]], answer

    def assert_complete(self) -> None:
        """Check that every confirmed command has one event, and every user one row."""
        tail = ("events", "tail", "--from", "0", "--no-follow", "--json", "--type", "user-registered")
        events = self.answered(*tail).objects
        counts = Counter(event["command_id"] for event in events)
        assert set(counts.values()) == {1}
        stored = {event["command_id"]: event["stream"].removeprefix("user-") for event in events}
        assert stored.items() >= self.created.items()

        def shown() -> bool:
            listed = self.answered("users", "list", "--json", *WITHOUT_END).objects
            return Counter(user["user_id"] for user in listed) == Counter(stored.values())

        eventually(shown, "the read model has every user once")

    def answered(self, *arguments: str) -> Ran:
        """A query, repeated while a part is unavailable."""

        def answer() -> Ran | None:
            ran = self._project.es(*arguments)
            assert ran.code in (0, 4), ran
            return ran if ran.code == 0 else None

        return eventually(answer, f"es {' '.join(arguments)} succeeds")
