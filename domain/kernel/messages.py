"""Requests, replies, and what a service and a caller promise each other, over any transport."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from domain.kernel.errors import EsError

Body = dict[str, Any]
"""A JSON object. Ids in it are decimal strings."""

to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""A JSON value as text, in the one form that this program writes."""


@dataclass(slots=True, eq=False)
class Request:
    """One request as a service sees it. `memo` is the service's own note while a request waits.

    `memo` starts empty and survives being answered with `LATER`; no transport carries it.
    """

    kind: str
    body: Body
    memo: Body = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Later:
    """Not an answer yet: the runtime hands the request over again with a later batch, until the caller is gone."""


LATER = Later()

Question = tuple[str, Mapping[str, Any]] | EsError
"""Kind and body of a request; or an error that is its own answer, to keep its place in a pipeline."""

Reply = Body | EsError | Later
