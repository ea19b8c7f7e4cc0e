"""The values that a shell completes: roles, projections, states, event types.

Promise: nothing is asked of a worker, so none is started. With a wrong setting the built-in features are offered.
"""

from __future__ import annotations

from cli import session
from domain.features import Registry, registry
from domain.kernel.errors import EsError


def _known() -> Registry:
    try:
        return registry(session.settings().features)
    except EsError:
        return registry()


def roles(incomplete: str) -> list[str]:
    return _matching(_known().role_names, incomplete)


def logs(incomplete: str) -> list[str]:
    return _matching(("supervisor", *_known().role_names), incomplete)


def scales(incomplete: str) -> list[str]:
    return _matching(tuple(f"{role}=" for role in _known().role_names), incomplete)


def projections(incomplete: str) -> list[str]:
    return _matching(tuple(each.name for each in _known().projections), incomplete)


def event_types(incomplete: str) -> list[str]:
    return _matching(tuple(sorted(event.type for event in _known().events)), incomplete)


def streams(incomplete: str) -> list[str]:
    return _matching(tuple(each.prefix for each in _known().aggregates), incomplete)


def statuses(incomplete: str) -> list[str]:
    from domain.users.account import Status

    return _matching(tuple(each.value for each in Status if each is not Status.UNKNOWN), incomplete)


def bases(incomplete: str) -> list[tuple[str, str]]:
    from domain.users.commands import BASES

    return [(code, why) for code, why in BASES.items() if code.startswith(incomplete)]


def levels(incomplete: str) -> list[str]:
    return _matching(("info", "warning", "error"), incomplete)


def _matching(values: tuple[str, ...], incomplete: str) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]
