"""The public package: its names, and what importing it costs."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import es
from tests.support.processes import ROOT


def loaded(code: str) -> set[str]:
    """The modules of this project that a program has imported at its end."""
    code += "\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {
        name
        for name in done.stdout.split()
        if name.split(".")[0] in ("es", "domain", "adapters", "workers", "cli")
    }


@pytest.mark.parametrize("name", es.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(es, name) is not None
    assert name in dir(es)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "es" / "__init__.py").read_text("utf-8"))
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (found.module, alias.name)
        for found in ast.walk(typed)
        if isinstance(found, ast.ImportFrom)
        for alias in found.names
    }

    assert {name for _, name in seen} == set(es.__all__)
    assert all(getattr(es, name) is getattr(sys.modules[str(module)], name) for module, name in seen)


@pytest.mark.parametrize("package", ["es", "domain", "adapters"])
def test_type_checkers_use_the_annotations_of_an_installed_package(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = es.nothing


def test_importing_the_package_imports_nothing_else() -> None:
    assert loaded("import es") == {"es"}


def test_a_service_file_imports_nothing_of_a_transport_or_a_store() -> None:
    found = loaded("import tests.support.shelves")

    assert "es.declare" in found
    assert {name.split(".")[0] for name in found} == {"es", "domain"}
