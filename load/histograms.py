"""Histograms of latencies, by the library of HdrHistogram: 1 µs to 1 h with three digits, added without loss.

Promise: a percentile of several processes, seconds or machines is that of their added histograms. Refusal: percentiles
are never averaged. This is the only module that imports the library, an extra of the package.
"""

from __future__ import annotations

import base64
import struct
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from adapters.wiring import how_to_install
from domain.kernel.errors import EsError, Kind

LOWEST_US = 1
HIGHEST_US = 3_600_000_000
DIGITS = 3

_HEADER = struct.Struct(">II")  # a cookie, and the length of what follows
_PAYLOAD_HEADER_BYTES = 40


class MissingExtra(EsError):
    """A library that only an extra of this package installs cannot be imported."""

    use: str
    extra: str
    code = "missing-extra"
    kind = Kind.INVALID

    def __init__(self, *values: str, **named: str) -> None:
        super().__init__(*values, **named)
        self.hint = how_to_install(self.extra)

    def __str__(self) -> str:
        return f"{self.use} needs the extra {self.extra}; it is not installed"


try:
    from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtra("a load run", "load") from error

_COUNTERS = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS).counts_len


class Histogram:
    """Latencies in µs. Latencies outside 1 µs to 1 h count as the nearest one inside."""

    __slots__ = ("_counts",)

    def __init__(self, encoded: str = "") -> None:
        """Raises ValueError if the text is not the encoding of a histogram; an empty text is an empty one."""
        # Counters are 200 kB: none are made before the first latency.
        self._counts: Any = _decoded(encoded) if encoded else None

    def record(self, latency_us: int) -> None:
        if self._counts is None:
            self._counts = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
        self._counts.record_value(min(max(latency_us, LOWEST_US), HIGHEST_US))

    def add(self, other: Histogram | str) -> None:
        """Add another one, or an encoded one. Raises ValueError as the constructor does."""
        if isinstance(other, str):
            other = Histogram(other)
            if not self:
                self._counts = other._counts
                return
        if other:
            if self._counts is None:
                self._counts = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
            self._counts.add(other._counts)

    @property
    def count(self) -> int:
        return int(self._counts.total_count) if self._counts else 0

    def __bool__(self) -> bool:
        return self.count > 0

    def at_ms(self, percentile: float) -> float | None:
        """The latency that `percentile` % of the replies do not exceed, in ms. 100 is the longest. None without any."""
        return self.percentiles_ms([percentile])[0]

    def percentiles_ms(self, percentiles: Sequence[float]) -> list[float | None]:
        """As `at_ms`, for several at once."""
        if not self:
            return [None] * len(percentiles)
        first, counts = self._recorded()
        below = list(accumulate(counts))
        found = []
        for percentile in percentiles:
            # As the library does, whose own loop in Python takes 1 ms.
            target = self._counts.get_target_count_at_percentile(percentile)
            value = self._counts.get_value_from_index(first + bisect_left(below, target))
            found.append(self._counts.get_highest_equivalent_value(value) / 1000)
        return found

    def buckets(self) -> Iterator[tuple[float, int]]:
        """The recorded latencies in ascending order: the longest of each step in ms, and how many replies it has."""
        if self:
            first, counts = self._recorded()
            for index, count in enumerate(counts, first):
                if count:
                    value = self._counts.get_value_from_index(index)
                    yield self._counts.get_highest_equivalent_value(value) / 1000, count

    def encoded(self) -> str:
        """The text that the constructor takes: base64, as the libraries of other languages do. Empty without latencies."""
        return self._counts.encode().decode() if self else ""

    def _recorded(self) -> tuple[int, list[int]]:
        """The counters from the shortest to the longest recorded latency, and the index of the first."""
        first = self._counts.get_counts_array_index(self._counts.min_value)
        last = self._counts.get_counts_array_index(self._counts.max_value)
        counters = memoryview(self._counts.counts).cast("B").cast("Q")
        return first, counters[first : last + 1].tolist()


def add(encoded: Iterable[str]) -> str:
    """The sum of encoded histograms, encoded. Raises ValueError for a text that is none."""
    texts = [text for text in encoded if text]
    if len(texts) < 2:
        return "".join(texts)
    total = Histogram()
    for text in texts:
        total.add(text)
    return total.encoded()


def is_sound(encoded: str) -> bool:
    """Whether the text is complete and unaltered by its checksum. Tells in a tenth of the time of decoding it."""
    try:
        _, length, packed = *_HEADER.unpack_from(raw := base64.b64decode(encoded, validate=True)), raw[8:]
        return length == len(packed) and len(zlib.decompress(packed)) >= _PAYLOAD_HEADER_BYTES
    except (ValueError, struct.error, zlib.error):
        return False


def _decoded(encoded: str) -> HdrHistogram:
    try:
        found = HdrHistogram.decode(encoded)
    # The library raises these, and plain subclasses of Exception.
    except Exception as error:
        raise ValueError("the text is not an encoded histogram") from error
    if found.counts_len != _COUNTERS:
        raise ValueError("the histogram has another range or precision")
    return found
