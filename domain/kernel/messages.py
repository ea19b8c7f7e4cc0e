"""Requests and replies, as every transport carries them between callers and services."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from domain.kernel.errors import EsError

Body = dict[str, Any]
"""A JSON object. Ids in it are decimal strings."""

to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Encode a JSON value as text, in the one form that this program writes."""


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
    """Not a reply yet: the worker hands the request over with a later batch, until its caller has timed out."""


LATER = Later()

Question = tuple[str, Mapping[str, Any]] | EsError
"""The kind and body of a request. An error stands for a request that was refused before it was sent: it is its own
reply, and keeps its place in a pipeline."""

Reply = Body | EsError | Later
