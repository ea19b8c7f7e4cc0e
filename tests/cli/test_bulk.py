"""A bulk whose answers can no longer be printed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cli import OutputFailed, bulk, session


def test_every_line_is_told_although_further_ones_are_read_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"email": f"user{number}@example.com", "name": "Ada"}) for number in range(9)]
    told: list[dict[str, Any]] = []
    reading: list[Iterator[Any]] = []

    def pipeline(
        _: str, questions: Iterator[Any], *, timeout_s: float, before_wait: Callable[[], None]
    ) -> Iterator[dict[str, Any]]:
        reading.append(questions)
        for _line in range(5):
            next(questions)
        yield {"command_id": "1"}
        yield {"command_id": "2"}
        before_wait()

    def output_failed(_: object) -> None:
        raise OutputFailed(OSError("full"))

    def tell(body: dict[str, Any]) -> None:
        """The thread that reads the input is slower than this one, and reads a further line."""
        told.append(body)
        next(reading[0], None)

    monkeypatch.setattr(session, "caller", lambda: _Caller(pipeline))
    monkeypatch.setattr(session, "tell", tell)
    monkeypatch.setattr("cli.render.json_lines", output_failed)

    with pytest.raises(OutputFailed):
        bulk.Bulk("users", "users.create").run(io.BytesIO("\n".join(lines).encode()))

    assert [body["line"] for body in told] == [*range(1, 10)]


def test_answers_that_come_together_are_printed_together_and_none_is_kept_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [json.dumps({"email": f"user{number}@example.com", "name": "Ada"}) for number in range(5)]
    printed: list[list[str]] = []

    def pipeline(
        _: str, questions: Iterator[Any], *, timeout_s: float, before_wait: Callable[[], None]
    ) -> Iterator[dict[str, Any]]:
        for group in (["1", "2", "3"], ["4"], ["5"]):
            for number in group:
                next(questions)
                yield {"command_id": number}
            before_wait()
            assert printed[-1] == group, "nothing is kept back while it waits"

    monkeypatch.setattr(session, "caller", lambda: _Caller(pipeline))
    monkeypatch.setattr(
        "cli.render.json_lines", lambda some: printed.append([each["command_id"] for each in some])
    )

    assert bulk.Bulk("users", "users.create").run(io.BytesIO("\n".join(lines).encode())) == 0
    assert printed == [["1", "2", "3"], ["4"], ["5"]]


def test_an_interrupt_leaves_no_answer_unprinted(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"email": f"user{number}@example.com", "name": "Ada"}) for number in range(3)]
    printed: list[dict[str, Any]] = []

    def pipeline(
        _: str, questions: Iterator[Any], *, timeout_s: float, before_wait: Callable[[], None]
    ) -> Iterator[dict[str, Any]]:
        for _line in range(3):
            next(questions)
        yield {"command_id": "1"}
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "caller", lambda: _Caller(pipeline))
    monkeypatch.setattr("cli.render.json_lines", printed.extend)

    bulk.Bulk("users", "users.create").run(io.BytesIO("\n".join(lines).encode()))

    assert printed[0] == {"command_id": "1"}
    assert [(each["line"], each["error"]["code"]) for each in printed[1:]] == [
        (2, "interrupted"),
        (3, "interrupted"),
    ]


class _Caller:
    """A test double of a caller with a given pipeline."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def close(self) -> None:
        """Nothing is open."""
