"""The role services of the compose files, written from the registry.

Promise: every role has a service, in the order in which workers start, and the first of them builds the image.
Refusal: nothing outside the two marks is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

BEGIN = "  # roles from domain/features.py: `make docs` writes the lines down to the end mark\n"
END = "  # end of the roles\n"


def _whole(role: str, *, builds: bool) -> str:
    build = "    build: .\n" if builds else ""
    return f"  {role}:\n    <<: *es\n{build}    command: [workers, run, {role}]\n"


def _overlay(role: str, *, builds: bool) -> str:
    return f"  {role}: *es\n"


Form = Callable[..., str]
FORMS: Mapping[str, Form] = {"docker-compose.yml": _whole, "docker-compose.cluster.yml": _overlay}
"""How each file writes the service of a role."""


def with_roles(text: str, form: Form, roles: Sequence[str]) -> str:
    """The compose file `text` with a service for each role between its marks. Raises ValueError without marks."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the marks are missing: {BEGIN.strip()!r}, {END.strip()!r}")
    services = [form(role, builds=role == roles[0]) for role in roles]
    return "".join([head, begin, *services, end, tail])
