"""Times in arguments and options: RFC 3339, or a date."""

from __future__ import annotations

from datetime import UTC, datetime

from domain.kernel.errors import InvalidInput


def parse_time_us(text: str, field: str) -> int:
    """UTC microseconds since 1970. A time without an offset is UTC. Raises InvalidInput."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(field, "is not a time like 2026-01-31T12:00:00Z") from error
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    elapsed = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
