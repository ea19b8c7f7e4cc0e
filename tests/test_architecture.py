"""Who may import whom, read off the sources: docs/adr and `lint-imports` say why, this says that it is so.

import-linter checks the layers it knows; a new top-level package would slip past it, so the set is exact here.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"adapters", "cli", "domain", "workers"}
OTHER_FOLDERS = {"tests", "scripts", "docs"}
"""Folders at the top that may hold Python without being a package of the program."""

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
"""Modules that bring a clock, chance, a machine or a network in."""

SHARED_ADAPTERS = {"adapters.clock", "adapters.crypto", "adapters.log", "adapters.pipeline", "adapters.settings"}
"""Adapters that others build on; `wiring` and `versions` see all."""


@dataclass(frozen=True)
class Import:
    """`module` imports `target`, at the top of the file or only when something is called."""

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
                assert node.level == 0, f"{name} imports relatively; dotted names can be found by searching"
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


def test_the_reading_of_imports_finds_what_is_there() -> None:
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


def _tracked_python() -> list[Path]:
    """Python files of the project: not those of environments, builds and caches."""
    skipped = {"build", "dist", "node_modules"}
    return [
        path
        for folder in ROOT.iterdir()
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in skipped
        for path in folder.rglob("*.py")
    ]


def test_what_is_shipped_are_these_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == PACKAGES
    assert project["project"]["scripts"] == {"es": "cli.main:app"}


def test_every_module_says_what_it_promises() -> None:
    without = [name for name, tree in sources() if not ast.get_docstring(tree)]

    assert without == []


def test_the_program_does_not_import_its_tests() -> None:
    assert importers_of("tests") | importers_of("scripts") == set()


# --- layers ----------------------------------------------------------------------------------


def test_the_domain_imports_nothing_but_itself_the_standard_library_and_tenacity_for_handling() -> None:
    outside = {
        (found.module, found.package)
        for found in imports_of("domain")
        if found.package != "domain" and found.package not in sys.stdlib_module_names
    }

    assert outside <= {("domain.kernel.command_handler", "tenacity")}


def test_the_domain_knows_no_clock_no_chance_and_no_machine() -> None:
    assert [found for found in imports_of("domain") if found.package in IMPURE] == []


def test_the_domain_calls_nothing_that_answers_differently_each_time() -> None:
    changeable = ("uuid1", "uuid4", "datetime.now", "datetime.utcnow", "date.today", "datetime.today")
    calls = [
        (name, ast.unparse(node.func))
        for name, tree in sources()
        if name.startswith("domain.")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]

    assert [call for call in calls if call[1].endswith(changeable)] == []
    assert [call for call in calls if call[1] in ("open", "print", "input", "exec", "eval")] == []


def test_adapters_import_neither_workers_nor_the_command_line() -> None:
    assert [found for found in imports_of("adapters") if found.package in ("workers", "cli")] == []


def test_workers_and_the_command_line_never_import_each_other() -> None:
    assert [found for found in imports_of("workers") if found.package == "cli"] == []
    assert [found for found in imports_of("cli") if found.package == "workers"] == []


def test_an_adapter_sees_its_own_folder_and_the_shared_ones_only() -> None:
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
    """`adapters.sqlite` for everything in that folder."""
    return ".".join(module.split(".")[:2])


def test_shared_adapters_do_not_lean_on_particular_ones() -> None:
    leaning = {
        (found.module, found.target)
        for found in imports_of("adapters")
        if _folder(found.module) in SHARED_ADAPTERS and found.package == "adapters"
    }

    assert {pair for pair in leaning if _folder(pair[1]) not in SHARED_ADAPTERS} == set()


def test_the_kernel_knows_no_aggregate_and_aggregates_do_not_see_each_other() -> None:
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
        if found.target in graph:  # also those that a function imports when it is called
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


# --- what comes from outside -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("apsw", "adapters.sqlite.database"),
        ("esdbclient", "adapters.eventstoredb"),
        ("grpc", "adapters.eventstoredb"),
        ("psycopg", "adapters.postgres.database"),
        ("pika", "adapters.rabbitmq"),
        ("cryptography", "adapters.crypto"),
    ],
)
def test_a_library_is_known_to_one_place(library: str, home: str) -> None:
    assert importers_of(library)
    assert all(module == home or module.startswith(f"{home}.") for module in importers_of(library))


@pytest.mark.parametrize("library", ["typer", "rich", "click"])
def test_what_draws_on_a_terminal_is_known_to_the_command_line_alone(library: str) -> None:
    assert {module.partition(".")[0] for module in importers_of(library)} <= {"cli"}


def test_every_library_that_is_imported_is_declared_and_none_is_declared_in_vain() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    optional = project["optional-dependencies"]["postgres"]
    declared = {_name(requirement) for requirement in [*project["dependencies"], *optional]}
    imported = {found.package for found in IMPORTS} - PACKAGES - set(sys.stdlib_module_names)

    assert imported <= declared | BROUGHT_ALONG
    assert declared <= imported


BROUGHT_ALONG = {"click", "grpc"}
"""Libraries that come with another, whose types and errors are theirs: typer's and esdbclient's."""


def _name(requirement: str) -> str:
    for end in "[<>=~!; ":
        requirement = requirement.partition(end)[0]
    return requirement


# --- what a short-lived command pays ---------------------------------------------------------

HEAVY = {
    "apsw",
    "cryptography",
    "esdbclient",
    "pika",
    "psycopg",
    "rich",
    "tenacity",
    "grpc",
    "asyncio",
    "tomllib",
}


def test_the_local_transport_stands_on_the_standard_library_alone() -> None:
    outside = {
        found.package
        for found in IMPORTS
        if _folder(found.module) == "adapters.local" and found.package not in sys.stdlib_module_names
    }

    assert outside == {"adapters", "domain"}


def test_wiring_imports_no_adapter_before_it_is_asked_to() -> None:
    tops = {
        found.target
        for found in IMPORTS
        if found.module == "adapters.wiring" and found.at_top and found.package == "adapters"
    }

    assert tops == {"adapters.settings"}


def test_asking_a_worker_loads_nothing_heavy() -> None:
    code = """
import sys
from pathlib import Path
from adapters import wiring
from adapters.settings import load_settings
from cli import session
caller = wiring.open_caller(load_settings(environment={"ES_HOME": "/nowhere"}))
try:
    caller.ask("users", "users.get", {"user_id": "1"})
except Exception as error:
    print(type(error).__name__)
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.stderr == ""
    error, loaded = done.stdout.splitlines()
    assert error == "PartUnavailable"
    assert HEAVY & set(loaded.split()) == set()
