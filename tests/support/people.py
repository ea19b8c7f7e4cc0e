"""Users as the input of a bulk, and what the answers of a bulk say about them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5


def ndjson(values: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def people(count: int, *, prefix: str = "u") -> list[dict[str, str]]:
    """Input for `users create --from`. Each prefix and number always has the same command id."""
    return [
        {
            "email": f"{prefix}{number}@example.com",
            "name": f"User {prefix}{number}",
            "command_id": str(uuid5(NAMESPACE_URL, f"{prefix}{number}")),
        }
        for number in range(count)
    ]


def command_ids(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """The command ids of input or answers, in order."""
    return [line["command_id"] for line in lines]


def confirmed(answers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The user id by command id, for every successful answer."""
    return {answer["command_id"]: answer["user_id"] for answer in answers if "error" not in answer}


def errors(answers: Iterable[Mapping[str, Any]]) -> list[str]:
    """The error code of every failed answer."""
    return [answer["error"]["code"] for answer in answers if "error" in answer]
