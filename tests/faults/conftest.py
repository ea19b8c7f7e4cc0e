"""The systems of the acceptance tests, to be broken."""

from tests.acceptance.conftest import profile, pytest_configure, running, shared, system, systems, vhosts

__all__ = ["profile", "pytest_configure", "running", "shared", "system", "systems", "vhosts"]
