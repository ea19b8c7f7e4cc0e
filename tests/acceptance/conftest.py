"""Every acceptance test that uses a system runs over each profile and each named store."""

from __future__ import annotations

import pytest

from tests.support.profiles import profiles_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "profile" in metafunc.fixturenames:
        metafunc.parametrize("profile", profiles_of(metafunc), indirect=True, scope="module")
