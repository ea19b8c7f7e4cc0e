"""Requests and replies, as every transport carries them between callers and services."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from domain.kernel.errors import EsError, InvalidInput, MessageTooLarge

Body = dict[str, Any]
"""A JSON object. Ids in it are decimal strings."""

to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Encode a JSON value as text, in the one form that this program writes."""

MAX_MESSAGE_BYTES = 1 << 20
"""The size limit of one request and of one reply, over every transport."""
MAX_DEPTH = 32
"""How deeply lists and objects are nested at most in what arrives. Python's parser would fail at about 1,000 levels."""
_ENCODED_DEPTH = MAX_DEPTH - 2
"""The same for one request or reply: RabbitMQ carries it inside `{"requests": [` or `{"replies": [`."""
INPUT_DEPTH = MAX_DEPTH - 4
"""The same for the input of a command, which is inside `{"requests": [{"body": {"input":`."""
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes({*range(128)} - _STEPS.keys())


@dataclass(slots=True, eq=False)
class Request:
    """One request as a service receives it.

    `memo` holds notes of the service. It starts empty, survives a reply of `LATER`, and no transport carries it.
    """

    kind: str
    body: Body
    memo: Body = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Later:
    """Not a reply yet: the worker hands the request over with a later batch, until its caller has timed out.

    An `is_idle` request waits for something that may never happen. A worker that stops leaves it to the next one.
    """

    is_idle: bool = False


LATER = Later()
IDLE = Later(is_idle=True)

Question = tuple[str, Mapping[str, Any]] | EsError
"""The kind and body of a request. An error stands for a request that was refused before it was sent: it is its own
reply, and keeps its place in a pipeline."""

Reply = Body | EsError | Later


def is_shallow(text: str, *, levels: int = MAX_DEPTH) -> bool:
    """Whether JSON text is nested at most so deeply. It counts without recursion, so no text can make it fail."""
    if text.count("[") + text.count("{") <= levels:
        return True
    if "\\" in text:  # a quotation mark after one is part of a text
        text = text.replace("\\\\", "").replace('\\"', "")
    outside = "".join(text.split('"')[::2])
    brackets = outside.encode("ascii", "ignore").translate(None, delete=_NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) <= levels


def parse_json(raw: bytes | bytearray) -> Any:
    """The JSON value of a message from outside. Raises ValueError and nothing else."""
    text = str(raw, "utf-8", "surrogatepass")
    if not is_shallow(text):
        raise ValueError("nested too deeply")
    return json.loads(text)


def encode(message: Any, what: str) -> bytes:
    """A message as a transport carries it. Raises MessageTooLarge or InvalidInput, in which `what` names the message."""
    try:
        text = to_json(message)
    except RecursionError as error:
        raise too_deep(what, _ENCODED_DEPTH) from error
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(what, MAX_MESSAGE_BYTES)
    if not is_shallow(text, levels=_ENCODED_DEPTH):
        raise too_deep(what, _ENCODED_DEPTH)
    return raw


def too_deep(what: str, levels: int) -> InvalidInput:
    """The error of a request, reply or line that `is_shallow` refuses."""
    return InvalidInput(what, f"is nested more than {levels} levels deep")
