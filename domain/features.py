"""The registry: which features the system has. A new one adds one line here, or is named in ES_FEATURES.

Codec, roles, projections, queries, status, doctor, bulk input, help and compose services derive from it.
Promise: two features never claim the same name, role, event or projection. Refusal: nothing of a feature is imported
before it is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from domain.kernel.errors import InvalidSetting
from domain.kernel.feature import Feature, Role

if TYPE_CHECKING:
    from domain.kernel.aggregate import Aggregate, Upcaster
    from domain.kernel.events import Event
    from domain.kernel.projection import Projection

_QUERIES = "workers.projections"

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
    """The features of one program. What needs the modules of a feature imports them on first use."""

    features: tuple[Feature, ...]

    @cached_property
    def roles(self) -> tuple[Role, ...]:
        """All roles, those that others need first: in this order workers start."""
        roles = [role for feature in self.features for role in feature.roles]
        needed = {name for role in roles for name in role.needs}
        return tuple(sorted(roles, key=lambda role: role.name not in needed))

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
        return tuple(_model(feature, "AGGREGATES"))

    def projections_of(self, feature: Feature) -> tuple[Projection, ...]:
        return tuple(_model(feature, "PROJECTIONS"))

    @cached_property
    def aggregates(self) -> tuple[Aggregate[Any, Any], ...]:
        found = [aggregate for feature in self.features for aggregate in self.aggregates_of(feature)]
        _refuse_twice("aggregate", [aggregate.name for aggregate in found])
        return tuple(found)

    @cached_property
    def events(self) -> tuple[type[Event], ...]:
        """Every class of event that a store may hold."""
        found: list[type[Event]] = [event for aggregate in self.aggregates for event in aggregate.events]
        for feature in self.features:
            found += _model(feature, "EVENTS")
        _refuse_twice("event", [event.type for event in found])
        return tuple(found)

    @cached_property
    def upcasters(self) -> Mapping[str, Upcaster]:
        return {
            wire_name: upcaster
            for aggregate in self.aggregates
            for wire_name, upcaster in aggregate.upcasters.items()
        }

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        found = [projection for feature in self.features for projection in self.projections_of(feature)]
        _refuse_twice("projection", [projection.name for projection in found])
        return tuple(found)


@cache
def registry(outside: Sequence[str] = ()) -> Registry:
    """The built-in features and those of the modules `outside`. Raises InvalidSetting naming a module that has none."""
    features = (*BUILT_IN, *map(_feature, outside))
    _refuse_twice("feature", [feature.name for feature in features])
    _refuse_twice("role", [role.name for feature in features for role in feature.roles])
    return Registry(features)


def _feature(module: str) -> Feature:
    try:
        found = import_module(module).FEATURE
    except Exception as error:  # code of others, which may fail in any way
        reason = f"names {module}, which cannot be imported: {type(error).__name__}: {error}"
        raise InvalidSetting("features", reason) from error
    if not isinstance(found, Feature):
        raise InvalidSetting("features", f"names {module}, whose FEATURE is not a Feature")
    return found


def _model(feature: Feature, name: str) -> Iterable[Any]:
    return getattr(import_module(feature.model), name, ()) if feature.model else ()


def _refuse_twice(what: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise InvalidSetting("features", f"have two of the {what} {name!r}")
