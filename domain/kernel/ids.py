"""The id: a positive 63-bit number that sorts by time.

    id = position (53 bits) << 10 | lane (10 bits)

A position counts 1/4096 ms since 2025-01-01T00:00:00Z, so `id >> 22` is milliseconds since then, and ids
stay positive signed 64-bit integers until 2094. A run of n ids of one lane is an arithmetic progression
with step 1024. Ids are decimal strings in JSON and in every other text: they exceed 2^53, which JavaScript rounds.

Promise: the layout and `shard_of` never change. Refusal: no clock is read; a time is always an argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from domain.kernel.errors import InvalidInput

LANE_BITS = 10
LANES = 1 << LANE_BITS
STEP = LANES
POSITION_BITS = 53
POSITIONS_PER_MS = 4096
EPOCH_US = 1_735_689_600_000_000
"""2025-01-01T00:00:00Z in microseconds since 1970."""
MIN_ID = 1
MAX_ID = (1 << 63) - 1
_UINT64 = (1 << 64) - 1

_MAX_DIGITS = len(str(MAX_ID))
_DECIMAL = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Range:
    """`count` ids of one lane: `first`, `first + step`, … The numbers in between are ids of other lanes."""

    first: int
    count: int
    step: int = STEP

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.first + self.count * self.step, self.step))

    def __len__(self) -> int:
        return self.count


def compose(position: int, lane: int) -> int:
    return position << LANE_BITS | lane


def position_of(id_: int) -> int:
    return id_ >> LANE_BITS


def lane_of(id_: int) -> int:
    return id_ & (LANES - 1)


def position_at(time_us: int) -> int:
    """The first position at or after a time (UTC microseconds since 1970)."""
    return -(-(time_us - EPOCH_US) * POSITIONS_PER_MS // 1000)


def time_us_of(position: int) -> int:
    """The time of a position, in UTC microseconds since 1970, rounded down."""
    return EPOCH_US + position * 1000 // POSITIONS_PER_MS


def parse_id(value: object, *, field: str = "id") -> int:
    """An id from a caller: a decimal text or a JSON number from 1 to 2^63-1. Raises InvalidInput."""
    if (
        isinstance(value, str)
        and len(value) < _MAX_DIGITS
        and value.isascii()
        and value.isdecimal()
        and value[0] != "0"
    ):
        return int(value)  # without the pattern: a projection reads an id from each event
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _DECIMAL.fullmatch(text) or int(text) > MAX_ID:
        raise InvalidInput(field, "is not an id: ids are decimal numbers from 1 to 9223372036854775807")
    return int(text)


# --- reading an id, and ids for a time -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decoded:
    """The parts of an id. Only the grants in the store tell whether it was issued."""

    id: int
    position: int
    lane: int
    time_us: int


def decode(id_: int) -> Decoded:
    position, lane = decompose(id_)
    return Decoded(id_, position, lane, time_us_of(position))


def time_us_of_id(id_: int) -> int:
    """When an id was drawn, in UTC microseconds since 1970. A clock that was wrong then shows."""
    return time_us_of(position_of(id_))


def decompose(id_: int) -> tuple[int, int]:
    """The position and the lane; the inverse of `compose`."""
    return position_of(id_), lane_of(id_)


def floor_id(time_us: int) -> int:
    """The smallest id of a time or later: `floor_id(a) <= id < floor_id(b)` selects the ids of [a, b).

    Raises InvalidInput for a time that no id can have.
    """
    return max(compose(_checked(position_at(time_us)), 0), MIN_ID)


def ceil_id(time_us: int) -> int:
    """The largest id of a time or earlier: `id <= ceil_id(b)` selects all ids up to and including microsecond b.

    Raises InvalidInput for a time that no id can have.
    """
    return compose(_checked(position_at(time_us + 1) - 1), LANES - 1)


def _checked(position: int) -> int:
    if not 0 <= position < 1 << POSITION_BITS:
        raise InvalidInput("time", "is outside the range of ids: 2025-01-01 to 2094-09-07, UTC")
    return position


def shard_of(id_: int, shards: int) -> int:
    """A shard from 0 to `shards` - 1, evenly distributed: the bits of the id are mixed before the modulo.

    Do not use `id % shards`: the low bits are the lane, so all ids of one worker would share a shard. The mixer
    is the finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    It never changes, because stored data was placed by it.
    """
    mixed = id_
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _UINT64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _UINT64
    return (mixed ^ mixed >> 31) % shards


# --- a time as text ---------------------------------------------------------------------------

_UNIX_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # UTC, and without a zone in its text
_MICROSECOND = timedelta(microseconds=1)
_MINUTE_US = 60_000_000


def time_text(time_us: int) -> str:
    """A time as RFC 3339 in UTC with microseconds. Times after the year 9999 become its last microsecond."""
    minutes, left_us = divmod(time_us, _MINUTE_US)
    try:
        minute = _minute_text(minutes)
    except OverflowError:
        return datetime.max.isoformat() + "Z"  # noqa: DTZ901
    return f"{minute}:{left_us // 1_000_000:02}.{left_us % 1_000_000:06}Z"


@lru_cache(maxsize=1000)
def _minute_text(minutes: int) -> str:
    """Lists have many times of few minutes, and to make a text takes longer than to find it."""
    return (_UNIX_EPOCH + timedelta(minutes=minutes)).isoformat(timespec="minutes")


def parse_time_us(value: object, *, field: str = "time") -> int:
    """The inverse of `time_text`: UTC microseconds since 1970 of an RFC 3339 text or a date.

    A time without an offset is UTC. Raises InvalidInput.
    """
    try:
        time = datetime.fromisoformat(value)  # type: ignore[arg-type]  # a value of another type raises
    except (TypeError, ValueError) as error:
        raise InvalidInput(field, "is not a time like 2026-01-31T12:00:00Z") from error
    in_utc = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return (in_utc - _UNIX_EPOCH.replace(tzinfo=UTC)) // _MICROSECOND
