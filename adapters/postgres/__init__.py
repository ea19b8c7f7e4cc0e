"""The vault and the read models in PostgreSQL 14 or newer. Needs the driver psycopg, an extra of the package."""

from domain.kernel.errors import PartUnavailable

try:
    import psycopg  # noqa: F401  # checked here, before any module of this folder imports it
except ImportError as error:  # also if psycopg is installed without libpq
    raise PartUnavailable(
        "PostgreSQL", "its driver psycopg cannot be loaded", "Install it: `pip install 'es[postgres]'`."
    ) from error
