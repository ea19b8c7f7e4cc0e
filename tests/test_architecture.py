"""Which module may import which, read from the sources. docs/architecture.md shows the arrows.

import-linter checks the layers that pyproject.toml lists. These tests also see imports inside functions, circles, and a
new top-level package, which import-linter would ignore.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from domain.features import registry

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"adapters", "cli", "domain", "es", "load", "workers"}
OTHER_FOLDERS = {"tests", "scripts", "docs", "examples"}
"""Other top-level folders that may contain Python."""

IMPURE = {
    "asyncio",
    "concurrent",
    "datetime.now",
    "fcntl",
    "getpass",
    "glob",
    "http",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "platform",
    "random",
    "secrets",
    "select",
    "shutil",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "urllib",
}
"""Modules that read a clock, draw random numbers, or use the machine or the network."""

SHARED_ADAPTERS = {
    "adapters.clock",
    "adapters.crypto",
    "adapters.log",
    "adapters.pipeline",
    "adapters.settings",
}
"""Adapters that every adapter may import; `wiring` and `versions` import all."""


@dataclass(frozen=True)
class Import:
    """`module` imports `target`, at the top of the file or inside a function."""

    module: str
    target: str
    at_top: bool

    @property
    def package(self) -> str:
        return self.target.partition(".")[0]


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the program, by dotted name."""
    for package in sorted(PACKAGES):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name, ast.parse(path.read_text("utf-8"))


def _imports() -> Iterator[Import]:
    for name, tree in sources():
        top = set(map(id, tree.body))
        for node in ast.walk(tree):
            at_top = id(node) in top
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(name, alias.name, at_top)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, (
                    f"{name} has a relative import, which a search for the full name misses"
                )
                assert node.module is not None
                for alias in node.names:
                    is_module = (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").exists()
                    yield Import(name, f"{node.module}.{alias.name}" if is_module else node.module, at_top)
            elif _is_dynamic(node):
                argument = node.args[0]  # type: ignore[attr-defined]
                if isinstance(argument, ast.Constant):
                    yield Import(name, str(argument.value), at_top=False)


def _is_dynamic(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__"))


IMPORTS = list(_imports())


def importers_of(package: str) -> set[str]:
    return {found.module for found in IMPORTS if found.package == package}


def imports_of(package: str) -> list[Import]:
    return [found for found in IMPORTS if found.module.partition(".")[0] == package]


# --- the whole -------------------------------------------------------------------------------


def test_imports_of_both_kinds_are_found() -> None:
    assert Import("workers.users.service", "workers.users.claims", at_top=True) in IMPORTS
    assert Import("adapters.wiring", "adapters.local.caller", at_top=False) in IMPORTS
    assert len(IMPORTS) > 200


def test_the_top_level_packages_are_exactly_these() -> None:
    packages = {
        path.parent.name for path in ROOT.glob("*/__init__.py") if not path.parent.name.startswith(".")
    }
    with_python = {path.relative_to(ROOT).parts[0] for path in _tracked_python()}

    assert packages == PACKAGES
    assert with_python <= PACKAGES | OTHER_FOLDERS


def test_examples_import_the_public_package_alone() -> None:
    """They stand for services of other packages, which an edit in this project must not break."""
    for path in (ROOT / "examples").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.partition(".")[0]
                assert top in {"es", "examples", *sys.stdlib_module_names}, (path, name)
                assert name == "es" or top != "es", (path, name)


def _tracked_python() -> list[Path]:
    """Python files of the project: not those of environments, builds and caches."""
    skipped = {"build", "dist", "node_modules"}
    return [
        path
        for folder in ROOT.iterdir()
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in skipped
        for path in folder.rglob("*.py")
    ]


def test_exactly_these_packages_are_shipped() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == PACKAGES
    assert project["project"]["scripts"] == {"es": "cli.main:app"}


def test_every_module_has_a_docstring() -> None:
    without = [name for name, tree in sources() if not ast.get_docstring(tree)]

    assert without == []


def test_the_program_does_not_import_its_tests() -> None:
    assert importers_of("tests") | importers_of("scripts") == set()


# --- layers ----------------------------------------------------------------------------------


def test_of_libraries_the_domain_imports_only_tenacity_in_the_command_handler() -> None:
    outside = {
        (found.module, found.package)
        for found in imports_of("domain")
        if found.package != "domain" and found.package not in sys.stdlib_module_names
    }

    assert outside <= {("domain.kernel.command_handler", "tenacity")}


def test_the_domain_imports_no_clock_no_randomness_and_no_machine() -> None:
    assert [found for found in imports_of("domain") if found.package in IMPURE] == []


def test_the_domain_calls_no_impure_function() -> None:
    impure = ("uuid1", "uuid4", "datetime.now", "datetime.utcnow", "date.today", "datetime.today")
    calls = [
        (name, ast.unparse(node.func))
        for name, tree in sources()
        if name.startswith("domain.")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]

    assert [call for call in calls if call[1].endswith(impure)] == []
    assert [call for call in calls if call[1] in ("open", "print", "input", "exec", "eval")] == []


def test_adapters_import_neither_workers_nor_the_command_line() -> None:
    assert [found for found in imports_of("adapters") if found.package in ("workers", "cli")] == []


def test_workers_and_the_command_line_never_import_each_other() -> None:
    assert [found for found in imports_of("workers") if found.package == "cli"] == []
    assert [found for found in imports_of("cli") if found.package == "workers"] == []


def test_an_adapter_imports_only_its_folder_and_the_shared_adapters() -> None:
    arrows = {
        (found.module, found.target)
        for found in imports_of("adapters")
        if found.package == "adapters" and found.module not in ("adapters.wiring", "adapters.versions")
    }

    assert {
        (module, target)
        for module, target in arrows
        if _folder(module) != _folder(target) and _folder(target) not in SHARED_ADAPTERS
    } == set()


def _folder(module: str) -> str:
    """`adapters.sqlite` for every module of that folder."""
    return ".".join(module.split(".")[:2])


def test_shared_adapters_import_no_other_adapter() -> None:
    arrows = {
        (found.module, found.target)
        for found in imports_of("adapters")
        if _folder(found.module) in SHARED_ADAPTERS and found.package == "adapters"
    }

    assert {arrow for arrow in arrows if _folder(arrow[1]) not in SHARED_ADAPTERS} == set()


def test_the_kernel_imports_no_aggregate_and_aggregates_never_each_other() -> None:
    arrows = {
        (_folder(found.module), _folder(found.target), found.module)
        for found in imports_of("domain")
        if found.package == "domain" and _folder(found.module) != _folder(found.target)
    }

    assert {
        arrow for arrow in arrows if arrow[1] != "domain.kernel" and arrow[0] != "domain.features"
    } == set()


def test_nothing_is_imported_in_a_circle() -> None:
    graph: dict[str, set[str]] = {name: set() for name, _ in sources()}
    for found in IMPORTS:
        if found.target in graph:  # imports inside functions count
            graph[found.module].add(found.target)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' → '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert done == set(graph)


# --- the registry ----------------------------------------------------------------------------


def test_every_module_that_the_registry_names_has_its_entry() -> None:
    named = [
        entry
        for feature in registry().features
        for entry in [
            (feature.cli, "app"),
            *((module, "queries") for module in feature.queries),
            *((role.service, "open_service") for role in feature.roles),
        ]
        if entry[0]
    ]

    assert len(named) > 10
    assert [entry for entry in named if not callable(getattr(import_module(entry[0]), entry[1], None))] == []


def test_every_model_that_the_registry_names_has_content() -> None:
    known = registry()

    assert known.aggregates
    assert known.events
    assert known.projections
    for model in (feature.model for feature in known.features if feature.model):
        assert any(hasattr(import_module(model), name) for name in ("AGGREGATES", "EVENTS", "PROJECTIONS"))


# --- libraries -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("apsw", "adapters.sqlite.database"),
        ("esdbclient", "adapters.eventstoredb.driver"),
        ("kurrentdbclient", "adapters.eventstoredb.driver"),
        ("grpc", "adapters.eventstoredb.driver"),
        ("psycopg", "adapters.postgres"),
        ("pika", "adapters.rabbitmq"),
        ("cryptography", "adapters.crypto"),
        ("msgspec", "adapters.codec adapters.rows"),
        ("hdrh", "load.histograms"),
        ("inotify_simple", "adapters.sqlite.news"),
    ],
)
def test_a_library_is_imported_in_its_homes(library: str, homes: str) -> None:
    assert importers_of(library)
    for module in importers_of(library):
        assert any(module == home or module.startswith(f"{home}.") for home in homes.split())


@pytest.mark.parametrize("library", ["typer", "rich", "click"])
def test_only_the_command_line_imports_terminal_libraries(library: str) -> None:
    assert {module.partition(".")[0] for module in importers_of(library)} <= {"cli"}


def test_the_declared_libraries_are_the_imported_ones() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    optional = [
        requirement for extra in ("eventstoredb", "load", "postgres") for requirement in extras[extra]
    ]
    declared = {_name(requirement) for requirement in [*project["dependencies"], *optional]}
    imported = {found.package for found in IMPORTS} - PACKAGES - set(sys.stdlib_module_names)

    assert imported <= declared | INDIRECT
    assert declared <= imported


INDIRECT = {"click", "grpc"}
"""Dependencies of typer and of the client of EventStoreDB, which raise their errors and take their types."""

MODULES = {"hdrhistogram": "hdrh", "inotify-simple": "inotify_simple"}
"""The module of a library that has another name."""


def _name(requirement: str) -> str:
    for end in "[<>=~!; ":
        requirement = requirement.partition(end)[0]
    return MODULES.get(requirement, requirement)


# --- the start of a command ------------------------------------------------------------------


def test_the_local_transport_imports_no_library() -> None:
    outside = {
        found.package
        for found in IMPORTS
        if _folder(found.module) == "adapters.local" and found.package not in sys.stdlib_module_names
    }

    assert outside == {"adapters", "domain"}


def test_wiring_imports_adapters_inside_functions_only() -> None:
    tops = {
        found.target
        for found in IMPORTS
        if found.module == "adapters.wiring" and found.at_top and found.package == "adapters"
    }

    assert tops == {"adapters.settings"}
