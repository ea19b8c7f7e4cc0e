"""Times in arguments and options: RFC 3339, a date, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from domain.kernel.errors import InvalidInput

_AGO = re.compile(r"(\d{1,5})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_time_us(text: str, field: str) -> int:
    """UTC microseconds since 1970. A time without an offset is UTC. Raises InvalidInput."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(field, "is not a time like 2026-01-31T12:00:00Z") from error
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return _us(time)


def parse_since_us(text: str, field: str) -> int:
    """The same, and also 30s, 10m, 2h or 1d before now."""
    ago = _AGO.fullmatch(text)
    if ago is None:
        try:
            return parse_time_us(text, field)
        except InvalidInput as error:
            raise InvalidInput(field, f"{error.reason}, nor one like 10m, 2h or 1d ago") from error
    return max(_us(datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})), 0)


def _us(time: datetime) -> int:
    elapsed = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
