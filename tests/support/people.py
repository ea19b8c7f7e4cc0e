"""Users as the input of a bulk, and what the answers of a bulk say about them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

if TYPE_CHECKING:
    from tests.support.system import System


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


def creation(person: Mapping[str, str]) -> dict[str, Any]:
    """The body of a `users.create` request for one of these people."""
    fields = {"email": person["email"], "name": person["name"]}
    return {"command_id": person["command_id"], "actor": "test", "input": fields}


def command_ids(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """The command ids of input or answers, in order."""
    return [line["command_id"] for line in lines]


def confirmed(answers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The user id by command id, for every successful answer."""
    return {answer["command_id"]: answer["user_id"] for answer in answers if "error" not in answer}


def errors(answers: Iterable[Mapping[str, Any]]) -> list[str]:
    """The error code of every failed answer."""
    return [answer["error"]["code"] for answer in answers if "error" in answer]


def assert_exactly_once(
    system: System, inputs: Sequence[Mapping[str, str]], first: Sequence[Mapping[str, Any]]
) -> None:
    """Repeat a bulk of creates that was disturbed; check that every line then has exactly one effect.

    `first` are the answers of the disturbed run.
    """
    assert command_ids(first) == command_ids(inputs)
    assert set(errors(first)) <= {"unavailable"}, set(errors(first))
    settled = confirmed(system.bulk("create", inputs).ok().objects)
    assert confirmed(first).items() <= settled.items()
    assert system.registered() == settled
    assert len(system.registrations()) == len(set(settled.values())) == len(inputs)
    shown = {user["user_id"]: (user["email"], user["name"]) for user in system.users()}
    assert shown == {settled[each["command_id"]]: (each["email"], each["name"]) for each in inputs}
