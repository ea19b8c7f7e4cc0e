"""A feature: the aggregates, projections, queries, roles and `es` commands of one service.

Modules are named by text and imported on first use: an `es` command must not pay for the modules of other commands.
"""

from __future__ import annotations

from dataclasses import dataclass

COMMANDS = "workers.runtime.commands"
"""The module of a service that handles the commands of its feature's aggregates."""


@dataclass(frozen=True, slots=True)
class Role:
    """A kind of worker. `service` names the module whose `open_service(worker)` opens its service."""

    name: str
    service: str = COMMANDS
    needs: tuple[str, ...] = ()
    """Roles that it sends requests to while it drains. They start before it and stop after it."""
    needs_broker: bool = False
    """Whether it works over a broker only. Without one it is not started."""
    needs_process: bool = False
    """Whether it works for process managers only. Without one in any feature it is not started."""
    follows: bool = False
    """Whether it follows the store. It then answers `<role>.progress`, which `es status` shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Aggregates, projections, queries, roles and a group of `es` commands, under one name.

    `ES_FEATURES` names the modules of other features. Each has its feature as `FEATURE`.
    """

    name: str
    help: str = ""
    """One sentence about the group `es <name>`. A feature without it has no group."""
    model: str = ""
    """The module with `AGGREGATES`, `PROJECTIONS`, and `EVENTS` of streams without an aggregate; each is optional."""
    roles: tuple[Role, ...] = ()
    queries: tuple[str, ...] = ()
    """Modules whose `queries(sources)` returns queries by kind of request. The `projections` role answers them.

    Without any module, the rows of the feature's projections can be queried; see `workers.projections.row_queries`.
    """
    cli: str = ""
    """The module whose `app` is the group. Without it the group is derived from the commands and projections."""
