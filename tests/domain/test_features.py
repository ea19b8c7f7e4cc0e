"""The registry: names are unique, roles start in order, and features are imported only when they are used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

from domain.features import BUILT_IN, Registry, registry
from domain.kernel.aggregate import Aggregate
from domain.kernel.commands import Command
from domain.kernel.errors import InvalidInput, InvalidSetting
from domain.kernel.events import Event
from domain.kernel.feature import Feature, Role
from tests.support.processes import ROOT
from tests.support.shelves import FEATURE, SHELF

SHELVES = "tests.support.shelves"
_numbers = count()
Outside = Callable[..., str]
"""Makes a module of an outside package with these names in it; its name."""


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    def make(**names: object) -> str:
        module = ModuleType(f"outside_{next(_numbers)}")
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return module.__name__

    yield make
    registry.cache_clear()  # it holds features of these modules


def refused(*modules: str) -> str:
    """The text of the refusal of the last of some modules, which alone is refused."""
    known = registry(modules)
    [broken] = known.broken
    assert (broken.module, broken.error.field) == (modules[-1], "features")
    assert broken.error.hint.endswith(".")
    assert len(known.features) == len(BUILT_IN) + len(modules) - 1
    assert str(broken.error).startswith(f"features name {modules[-1]}")
    return str(broken.error)


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        (Feature(name="users"), "the feature 'users'"),
        (Feature(name="others", roles=(Role("ids"),)), "the role 'ids'"),
        (Feature(name="others", roles=(Role("x"), Role("x"))), "the role 'x'"),
    ],
    ids=["feature", "role of another feature", "role of its own"],
)
def test_a_second_feature_or_role_of_a_name_is_refused_by_name(
    outside: Outside, feature: Feature, said: str
) -> None:
    module = outside(FEATURE=feature)

    assert said in refused(module)


class UserRegistered(Event):
    type: ClassVar[str] = "user-registered.v1"


class OtherCommand(Command):
    request: ClassVar[str] = "users.create"


def aggregate(name: str, *events: type[Event]) -> Aggregate[None, None]:
    return Aggregate(
        name=name, initial=None, evolve=lambda state, _: state, decide=lambda _, __: [], events=events
    )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"AGGREGATES": (aggregate("user"),)}, "the aggregate 'user'"),
        (
            {"AGGREGATES": (aggregate("account", UserRegistered),)},
            "the event 'user-registered.v1'",
        ),
        ({"EVENTS": (UserRegistered,)}, "the event 'user-registered.v1'"),
        (
            {
                "AGGREGATES": (
                    replace(
                        aggregate("account"),
                        upcasters={"user-registered.v1": lambda data: ("other.v2", data)},
                    ),
                )
            },
            "the event 'user-registered.v1'",
        ),
        (
            {"AGGREGATES": (replace(aggregate("account"), commands=(OtherCommand,)),)},
            "the request 'users.create'",
        ),
        (
            {"PROJECTIONS": (SimpleNamespace(name="users"),)},
            "the projection 'users'",
        ),
    ],
    ids=["aggregate", "event of an aggregate", "event", "upcaster", "command", "projection"],
)
def test_a_second_part_of_a_name_is_refused_by_name(
    outside: Outside, model: dict[str, object], said: str
) -> None:
    module = outside(FEATURE=Feature(name="others", model=outside(**model)))

    assert said in refused(module)


def test_projections_have_unique_names_and_read_streams() -> None:
    projections = registry().projections

    assert len({projection.name for projection in projections}) == len(projections)
    assert all(projection.prefixes is None or projection.prefixes for projection in projections)
    assert all(projection.name.isidentifier() for projection in projections), "it is part of a table's name"


# --- outside modules -------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["no_such_package.feature", "tests.support.builders", "", "not a name"])
def test_an_outside_module_that_cannot_be_imported_is_named(module: str) -> None:
    text = refused(module)

    assert module in text
    assert "cannot be imported" in text


def test_an_outside_module_that_raises_is_named_with_its_error(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("package")
    (folder / "raising_feature.py").write_text("raise LookupError('no licence')")
    monkeypatch.syspath_prepend(folder)

    text = refused("raising_feature")

    assert "raising_feature, which cannot be imported: LookupError: no licence" in text


def test_a_feature_of_another_class_is_refused(outside: Outside) -> None:
    module = outside(FEATURE={"name": "others"})

    text = refused(module)

    assert module in text
    assert "FEATURE" in text


def test_an_outside_feature_is_registered_with_all_its_parts() -> None:
    known = registry((SHELVES,))

    assert known.features == (*BUILT_IN, FEATURE)
    assert known.feature("shelves") is known.feature_of("shelves") is FEATURE
    assert known.role("shelves") == Role("shelves")
    assert set(SHELF.events) <= set(known.events)
    assert set(registry().events) == set(known.events) - set(SHELF.events)
    assert {each.name for each in known.projections} == {
        "users",
        "registrations",
        "streams",
        "shelves",
        "labels",
    }
    assert known.aggregates_of(FEATURE) == (SHELF,)
    assert known.upcasters == {**registry().upcasters, **SHELF.upcasters}


def test_an_unknown_name_has_no_feature_and_no_role() -> None:
    assert registry().feature("shelves") is None
    assert registry().role("shelves") is None


@pytest.mark.parametrize("parts", [{"AGGREGATES": SHELF}, {"PROJECTIONS": 7}, {"AGGREGATES": (SHELF, None)}])
def test_parts_of_another_form_are_refused_and_harm_no_other_feature(
    outside: Outside, parts: dict[str, object]
) -> None:
    module = outside(FEATURE=Feature(name="others", model=outside(**parts)))

    assert "cannot be read" in refused(module)
    assert registry((module, SHELVES)).modules == (SHELVES,)


def test_a_copy_of_a_feature_names_both_modules(outside: Outside) -> None:
    copy = outside(FEATURE=FEATURE)

    assert f"name {copy}, which declares the feature 'shelves', but {SHELVES} has it already" in refused(
        SHELVES, copy
    )


def test_a_module_that_is_named_twice_counts_once() -> None:
    known = registry((SHELVES, SHELVES))

    assert (known.modules, known.broken) == ((SHELVES,), ())


def test_a_name_that_no_feature_has_may_be_one_of_a_broken_module() -> None:
    otherwise = InvalidInput("ROLE", "is unknown")

    assert registry((SHELVES,)).unknown(otherwise) is otherwise
    found = registry(("no_such_package", SHELVES, "not a name")).unknown(otherwise)
    assert isinstance(found, InvalidSetting)
    assert "name no_such_package, which cannot be imported" in found.reason
    assert "; name not a name, which cannot be imported" in found.reason


# --- roles -----------------------------------------------------------------------------------


def test_roles_that_others_need_come_first(outside: Outside) -> None:
    module = outside(
        FEATURE=Feature(name="others", roles=(Role("first", needs=("last",)), Role("other"), Role("last")))
    )

    assert registry().role_names[0] == "ids"
    assert registry((module,)).role_names[:2] == ("ids", "last")
    assert set(registry((module,)).role_names) == {*registry().role_names, "first", "other", "last"}


def test_a_role_stops_before_the_roles_that_it_needs() -> None:
    roles = (Role("shop", needs=("users",)), Role("users", needs=("ids",)), Role("relay"), Role("ids"))
    known = Registry((Feature(name="some", roles=roles),))

    stopped = [[role.name for role in group] for group in known.stop_order]
    assert stopped == [["shop", "relay"], ["users"], ["ids"]]
    assert known.role_names == ("ids", "users", "shop", "relay")


def test_roles_that_need_each_other_are_refused() -> None:
    roles = (Role("one", needs=("two",)), Role("two", needs=("one",)), Role("other"))

    with pytest.raises(InvalidSetting, match="need each other: one, two"):
        _ = Registry((Feature(name="x", roles=roles),)).roles


# --- imports ---------------------------------------------------------------------------------


def test_the_registry_imports_nothing_of_a_feature() -> None:
    code = """
import sys
from domain.features import registry
known = registry()
assert known.role_names and known.feature("users") and known.role("ids")
print(*sorted(name for name in sys.modules if name.split(".")[0] in ("domain", "adapters", "workers", "cli")))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.split() == [
        *("domain", "domain.features", "domain.kernel", "domain.kernel.errors", "domain.kernel.feature")
    ]


@pytest.mark.parametrize("feature", BUILT_IN, ids=lambda feature: feature.name)
def test_every_module_that_a_feature_names_exists(feature: Feature) -> None:
    services = [role.service for role in feature.roles]
    named = [feature.model, feature.cli, *feature.queries, *services]

    assert [module for module in named if module and find_spec(module) is None] == []
    for module in feature.queries:
        assert callable(import_module(module).queries)
    for module in services:
        assert callable(import_module(module).open_service)
