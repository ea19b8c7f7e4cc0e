"""The registry: which features the system has. A new one adds a line here, or is named in ES_FEATURES.

Codec, roles, queries, status, doctor, bulk input, help and compose services derive from it.
Promise: no two features have the same name, role, event, command or projection. Refusal: it imports no module of a
feature before it is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from domain.kernel.errors import InvalidSetting
from domain.kernel.feature import Feature, Role

if TYPE_CHECKING:
    from types import ModuleType

    from domain.kernel.aggregate import Aggregate, Upcaster
    from domain.kernel.events import Event
    from domain.kernel.projection import Projection

BUILT_IN = (
    Feature(
        name="users",
        help="Create, read, change and delete user accounts.",
        model="domain.users.model",
        roles=(Role("users", "workers.users.role", needs=("ids",)),),
        queries=("workers.users.queries",),
        cli="cli.users",
    ),
    Feature(
        name="ids",
        help="Draw and examine ids: unique, numeric, sortable by time.",
        model="domain.lanes.model",
        roles=(Role("ids", "workers.ids.role"),),
        cli="cli.ids",
    ),
    Feature(
        name="projections",
        help="Look at read models and rebuild them.",
        roles=(Role("projections", "workers.projections.role"),),
        queries=("workers.projections.queries",),
        cli="cli.projections",
    ),
    Feature(
        name="gdpr",
        help="Erase a person for good.",
        roles=(Role("erasures", "workers.erasures.role", follows=True),),
        cli="cli.gdpr",
    ),
    Feature(
        name="streams",
        help="List and read event streams.",
        queries=("workers.projections.stream_queries",),
        cli="cli.streams",
    ),
    Feature(name="events", help="Watch events as they are stored.", cli="cli.events"),
    Feature(name="relay", roles=(Role("relay", "workers.relay.role", needs_broker=True, follows=True),)),
)


@dataclass(frozen=True)
class Registry:
    """The features of one program. Aggregates, events and projections are imported on first use."""

    features: tuple[Feature, ...]

    @cached_property
    def roles(self) -> tuple[Role, ...]:
        """All roles in the order in which workers start: a role comes after those that it needs."""
        return tuple(role for group in reversed(self.stop_order) for role in group)

    @cached_property
    def stop_order(self) -> tuple[tuple[Role, ...], ...]:
        """Groups of roles that stop together: a role stops after all that need it."""
        left = [role for feature in self.features for role in feature.roles]
        groups: list[tuple[Role, ...]] = []
        while left:
            needed = {name for role in left for name in role.needs}
            groups.append(tuple(role for role in left if role.name not in needed))
            if not groups[-1]:
                raise InvalidSetting(
                    "features", f"have roles that need each other: {', '.join(sorted(needed))}"
                )
            left = [role for role in left if role.name in needed]
        return tuple(groups)

    @cached_property
    def role_names(self) -> tuple[str, ...]:
        return tuple(role.name for role in self.roles)

    def role(self, name: str) -> Role | None:
        return next((role for role in self.roles if role.name == name), None)

    def feature(self, name: str) -> Feature | None:
        return next((feature for feature in self.features if feature.name == name), None)

    def feature_of(self, role: str) -> Feature:
        return next(feature for feature in self.features if role in (each.name for each in feature.roles))

    def aggregates_of(self, feature: Feature) -> tuple[Aggregate[Any, Any], ...]:
        return _model(feature, "AGGREGATES")

    def projections_of(self, feature: Feature) -> tuple[Projection, ...]:
        return _model(feature, "PROJECTIONS")

    @cached_property
    def aggregates(self) -> tuple[Aggregate[Any, Any], ...]:
        found = [aggregate for feature in self.features for aggregate in self.aggregates_of(feature)]
        _refuse_twice("aggregate", (aggregate.name for aggregate in found))
        commands = [command for aggregate in found for command in aggregate.commands]
        _refuse_twice("command", (command.request for command in commands if command.request))
        return tuple(found)

    @cached_property
    def events(self) -> tuple[type[Event], ...]:
        """Every event class. Older versions, which have an upcaster, are not among them."""
        found: list[type[Event]] = [*_imported("domain.kernel.system").EVENTS]
        found += [event for aggregate in self.aggregates for event in aggregate.events]
        for feature in self.features:
            found += _model(feature, "EVENTS")
        upcast = [name for aggregate in self.aggregates for name in aggregate.upcasters]
        # Together: an upcaster of another feature's event would hide its class.
        _refuse_twice("event", [*(event.type for event in found), *upcast])
        return tuple(found)

    @cached_property
    def upcasters(self) -> Mapping[str, Upcaster]:
        """The upcaster of each older event version, by its wire name."""
        return {name: each for aggregate in self.aggregates for name, each in aggregate.upcasters.items()}

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        found = [projection for feature in self.features for projection in self.projections_of(feature)]
        _refuse_twice("projection", (projection.name for projection in found))
        return tuple(found)


@cache
def registry(outside: tuple[str, ...] = ()) -> Registry:
    """The built-in features and those of the modules `outside`. Raises InvalidSetting for a module without one."""
    features = (*BUILT_IN, *map(_feature, outside))
    _refuse_twice("feature", (feature.name for feature in features))
    _refuse_twice("role", (role.name for feature in features for role in feature.roles))
    return Registry(features)


def _feature(module: str) -> Feature:
    found = getattr(_imported(module), "FEATURE", None)
    if not isinstance(found, Feature):
        raise InvalidSetting("features", f"name {module}: FEATURE, a Feature, cannot be imported from it")
    return found


def _model(feature: Feature, name: str) -> tuple[Any, ...]:
    return tuple(getattr(_imported(feature.model), name, ())) if feature.model else ()


def _imported(module: str) -> ModuleType:
    try:
        return import_module(module)
    except Exception as error:  # a module of another package may raise anything
        reason = f"name {module}, which cannot be imported: {type(error).__name__}: {error}"
        raise InvalidSetting("features", reason) from error


def _refuse_twice(what: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise InvalidSetting("features", f"have two of the {what} {name!r}")
