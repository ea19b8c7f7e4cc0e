"""A bulk whose answers can no longer be printed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from cli import OutputFailed, bulk, session


def test_every_line_is_told_although_further_ones_are_read_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"email": f"user{number}@example.com", "name": "Ada"}) for number in range(9)]
    told: list[dict[str, Any]] = []
    reading: list[Iterator[Any]] = []

    def pipeline(_: str, questions: Iterator[Any], *, timeout_s: float) -> Iterator[dict[str, Any]]:
        reading.append(questions)
        for _line in range(5):
            next(questions)
        yield {"command_id": "1"}

    def output_failed(_: object) -> None:
        raise OutputFailed(OSError("full"))

    def tell(body: dict[str, Any]) -> None:
        """The thread that reads the input is slower than this one, and reads a further line."""
        told.append(body)
        next(reading[0], None)

    monkeypatch.setattr(session, "caller", lambda: _Caller(pipeline))
    monkeypatch.setattr(session, "tell", tell)
    monkeypatch.setattr("cli.render.json_line", output_failed)

    with pytest.raises(OutputFailed):
        bulk.Bulk("users", "users.create").run(io.BytesIO("\n".join(lines).encode()))

    assert [body["line"] for body in told] == [*range(1, 10)]


class _Caller:
    """A test double of a caller with a given pipeline."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def close(self) -> None:
        """Nothing is open."""
