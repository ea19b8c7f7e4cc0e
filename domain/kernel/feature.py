"""A feature: what one part of the system consists of. Everything that has to know of it derives from here.

The texts that name modules are imported when they are first used: a short-lived command must not pay for the parts of
other commands.
"""

from __future__ import annotations

from dataclasses import dataclass

COMMANDS = "workers.runtime.commands"
"""The service of a role that carries out the commands of its feature's aggregates, and nothing besides."""


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of worker. `service` names the module whose `open_service(worker)` makes its service."""

    name: str
    service: str = COMMANDS
    needs: tuple[str, ...] = ()
    """Roles that this one asks while it drains: they stop after it."""
    needs_broker: bool = False
    """Whether it has nothing to do in a profile without a broker."""
    follows: bool = False
    """Whether it follows the store on its own and answers `<role>.progress`, which `es status` shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Aggregates, projections, queries, roles and a group of the command line, under one name.

    A feature of an outside package is an object `FEATURE` in the module that `ES_FEATURES` names.
    """

    name: str
    help: str = ""
    """Of the group `es <name>`, in one sentence; empty when there is no such group."""
    model: str = ""
    """The module that has any of `AGGREGATES`, `EVENTS` (of streams that are no aggregate's) and `PROJECTIONS`."""
    roles: tuple[Role, ...] = ()
    queries: tuple[str, ...] = ()
    """Modules whose `queries(sources)` gives the queries that the `projections` role answers, by kind of request.

    Without any, the rows of the feature's projections are answered as `<feature>.get` and `<feature>.list`.
    """
    cli: str = ""
    """The module whose `app` is the group; empty: the group is made from the commands and projections."""
