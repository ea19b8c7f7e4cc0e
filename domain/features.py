"""The registry: which features the system has. A new one adds a line here, or is named in ES_FEATURES.

Codec, roles, queries, status, doctor, bulk input, help and compose services derive from it.
Promise: an outside module that cannot be used is left out with its reason, and the others work: see `registration`.
Refusal: it imports no module of a built-in feature before it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from domain.kernel.errors import EsError, InvalidSetting
from domain.kernel.feature import Feature, Role

if TYPE_CHECKING:
    from types import ModuleType

    from domain.kernel.aggregate import Aggregate, Upcaster
    from domain.kernel.events import Event
    from domain.kernel.process import Process
    from domain.kernel.projection import Projection
    from domain.registration import Parts

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
        queries=("workers.projections.queries", "workers.projections.parked_queries"),
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
        model="domain.streams.model",
        queries=("workers.projections.stream_queries",),
        cli="cli.streams",
    ),
    Feature(name="events", help="Watch events as they are stored.", cli="cli.events"),
    Feature(
        name="processes",
        help="Look at process managers, and retry what is in quarantine.",
        roles=(Role("processes", "workers.processes.role", needs_process=True, follows=True),),
        cli="cli.processes",
    ),
    Feature(name="relay", roles=(Role("relay", "workers.relay.role", needs_broker=True, follows=True),)),
)


_FIX_MODULE = "Install or upgrade the package of the module, or remove the module from ES_FEATURES or `features` in es.toml."


@dataclass(frozen=True)
class Broken:
    """A module of `ES_FEATURES` that cannot be used. `error` names it, with the reason and a hint."""

    module: str
    error: InvalidSetting


@dataclass(frozen=True)
class Registry:
    """The features of one program. Aggregates, events and projections are imported on first use."""

    features: tuple[Feature, ...]
    modules: tuple[str, ...] = ()
    """The outside modules that are used, in the order of the last of `features`."""
    broken: tuple[Broken, ...] = ()
    """The outside modules that cannot be used. What they would bring is missing."""

    def unknown(self, error: EsError) -> EsError:
        """The error for a name that no feature has: `error`, unless it may be one of a broken module."""
        if not self.broken:
            return error
        first = self.broken[0].error
        reasons = "; ".join(each.error.reason for each in self.broken)
        return InvalidSetting("features", reasons, first.hint)

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

    def events_of(self, feature: Feature) -> tuple[type[Event], ...]:
        """Its event classes. Older versions, which have an upcaster, are not among them."""
        found = [event for aggregate in self.aggregates_of(feature) for event in aggregate.events]
        return (*found, *_model(feature, "EVENTS"))

    @cached_property
    def aggregates(self) -> tuple[Aggregate[Any, Any], ...]:
        return tuple(each for feature in self.features for each in self.aggregates_of(feature))

    @cached_property
    def events(self) -> tuple[type[Event], ...]:
        """Every event class."""
        found = [event for feature in self.features for event in self.events_of(feature)]
        kernel = ("domain.kernel.system", "domain.kernel.process_events")
        return (*(event for module in kernel for event in _imported(module).EVENTS), *found)

    @cached_property
    def upcasters(self) -> Mapping[str, Upcaster]:
        """The upcaster of each older event version, by its wire name."""
        return {name: each for aggregate in self.aggregates for name, each in aggregate.upcasters.items()}

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        found = [each for feature in self.features for each in self.projections_of(feature)]
        index = _imported("domain.kernel.person_streams").person_streams(self.aggregates, self.processes)
        return (*found, *index)

    def parts(self) -> list[Parts]:
        """What each feature brings, for the checks of one more."""
        from domain.registration import Parts

        names = [feature.name for feature in self.features[: len(self.features) - len(self.modules)]]
        return [
            Parts(
                module=module,
                feature=feature,
                aggregates=self.aggregates_of(feature),
                events=self.events_of(feature),
                upcasters={
                    name: each
                    for aggregate in self.aggregates_of(feature)
                    for name, each in aggregate.upcasters.items()
                },
                projections=self.projections_of(feature),
                processes=self.processes_of(feature),
                is_built_in=feature in BUILT_IN,
            )
            for module, feature in zip([*names, *self.modules], self.features, strict=True)
        ]

    def processes_of(self, feature: Feature) -> tuple[Process[Any], ...]:
        return _model(feature, "PROCESSES")

    @cached_property
    def processes(self) -> tuple[Process[Any], ...]:
        return tuple(each for feature in self.features for each in self.processes_of(feature))


@cache
def registry(outside: tuple[str, ...] = ()) -> Registry:
    """The built-in features and those of the modules `outside`. Modules that cannot be used are in `broken`."""
    known = Registry(BUILT_IN)
    for module in dict.fromkeys(outside):
        try:
            known = _joined(known, module)
        except InvalidSetting as error:
            known = replace(known, broken=(*known.broken, Broken(module, error)))
        except Exception as error:  # its parts have another form, such as a tuple without its comma
            reason = f"name {module}, whose parts cannot be read: {type(error).__name__}: {error}"
            found = InvalidSetting("features", reason, _FIX_MODULE)
            known = replace(known, broken=(*known.broken, Broken(module, found)))
    return known


def outside_feature(name: str, modules: Iterable[str]) -> tuple[Feature, str] | None:
    """The feature of a name and its module, without the checks of `registry`: an `es` command is too short for them.

    A worker makes them. If it refuses the feature, `registry` tells why.
    """
    for module in modules:
        with suppress(InvalidSetting):
            feature = _feature(module)
            if feature.name == name:
                return feature, module
    return None


def _joined(known: Registry, module: str) -> Registry:
    """The registry with the feature of a module. Raises InvalidSetting if it cannot be used beside the others."""
    from domain.registration import refuse

    feature = _feature(module)
    joined = replace(known, features=(*known.features, feature), modules=(*known.modules, module))
    *others, new = joined.parts()
    refuse(new, others)
    _ = joined.stop_order  # refuses roles that need each other
    return joined


def _feature(module: str) -> Feature:
    found = getattr(_imported(module), "FEATURE", None)
    if not isinstance(found, Feature):
        reason = f"name {module}: FEATURE, a Feature, cannot be imported from it"
        raise InvalidSetting("features", reason, _FIX_MODULE)
    return found


def _model(feature: Feature, name: str) -> tuple[Any, ...]:
    return tuple(getattr(_imported(feature.model), name, ())) if feature.model else ()


def _imported(module: str) -> ModuleType:
    try:
        return import_module(module)
    except (Exception, SystemExit) as error:  # a module of another package may raise anything
        reason = f"name {module}, which cannot be imported: {type(error).__name__}: {error}"
        raise InvalidSetting("features", reason, _FIX_MODULE) from error
