"""Times in arguments and options: RFC 3339, a date, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from domain.kernel.errors import InvalidInput

_AGO = re.compile(r"(\d{1,5})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_time_us(text: str, field: str) -> int:
    """UTC microseconds since 1970. A time without an offset is UTC. Raises InvalidInput."""
    from domain.kernel.ids import parse_time_us

    return parse_time_us(text, field=field)


def parse_since_us(text: str, field: str) -> int:
    """The same, and also 30s, 10m, 2h or 1d before now."""
    ago = _AGO.fullmatch(text)
    if ago is None:
        try:
            return parse_time_us(text, field)
        except InvalidInput as error:
            raise InvalidInput(field, f"{error.reason}, nor one like 10m, 2h or 1d ago") from error
    since = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    return max(parse_time_us(since.isoformat(), field), 0)
