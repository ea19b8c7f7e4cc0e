"""Carry the figures of a run forward to more users by arithmetic, as Markdown for docs/scaling.md.

What grows with the users is multiplied. What a run shows to grow slowly, as the depth of a B-tree does, is carried forward by
its growth for each factor of ten, which is the greater of what was measured and none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from scripts.bench.report import number

FORWARD = (1_000_000, 10_000_000, 100_000_000)
_GB = 1e9
_MB = 1e6
_INNER = 0.01
"""The share of the upper levels of B-trees in all pages: a page of 4 KB has about a hundred entries."""
_INNER_OF_VAULT = 0.08
"""The same in the vault, whose pages are smaller."""

Found = Mapping[str, Mapping[str, Sequence[float]]]
"""Figures by name and size, as the JSON of a run has them."""


def scaling(found: Found) -> str:
    """A table of what so many users would need, and how the figures were carried forward."""
    heads = ["", "measured", *(f"{users:,} users" for users in FORWARD)]
    rows = [*_stored(found), *_times(found), *_rates(found)]
    table = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def _largest(figures: Mapping[str, Sequence[float]]) -> tuple[int, float]:
    """The largest measured size, and the median there."""
    size = max(map(int, figures))
    return size, statistics.median(figures[str(size)])


def _growth(figures: Mapping[str, Sequence[float]], *, at_most: bool) -> float:
    """By which factor a figure gets worse for each factor of ten in users; 1 if it does not."""
    sizes = sorted(map(int, figures))
    if len(sizes) < 2:
        return 1.0
    first, last = (statistics.median(figures[str(size)]) for size in (sizes[0], sizes[-1]))
    ratio = last / first if at_most else first / last
    return max(math.pow(ratio, 1 / math.log10(sizes[-1] / sizes[0])), 1.0)


def _stored(found: Found) -> list[list[str]]:
    rows = []
    total = [0.0] * len(FORWARD)
    for name in ("events", "read", "vault"):
        if (key := f"stored in {name}") not in found:
            continue
        _, each = _largest(found[key])
        sizes = [each * users for users in FORWARD]
        total = [sum(pair) for pair in zip(total, sizes, strict=True)]
        rows.append([f"{name}.db, GB", f"{number(each)} B a user", *(number(size / _GB) for size in sizes)])
    if rows:
        # A rebuild keeps two generations for a while, and an erasure may copy the vault.
        _, read = _largest(found["stored in read"]) if "stored in read" in found else (0, 0.0)
        _, vault = _largest(found["stored in vault"]) if "stored in vault" in found else (0, 0.0)
        beside = [users * (read + vault) for users in FORWARD]
        rows.append(["disk, GB", "", *(number(size / _GB) for size in total)])
        rows.append(
            [
                "disk with a rebuild and a copy of the vault, GB",
                "",
                *(number((size + more) / _GB) for size, more in zip(total, beside, strict=True)),
            ]
        )
        upper = [
            size * _INNER + users * vault * (_INNER_OF_VAULT - _INNER)
            for size, users in zip(total, FORWARD, strict=True)
        ]
        rows.append(
            [
                "inner pages of the indexes, MB: they should fit in memory",
                "",
                *(number(size / _MB) for size in upper),
            ]
        )
    return rows


def _times(found: Found) -> list[list[str]]:
    """How long what reads or writes the whole store takes, at its measured rate made worse by its growth."""
    rows = []
    wanted = (
        ("bulk", "fill by bulk, hours"),
        ("rebuild", "rebuild of a projection, hours"),
        ("list", "users list, hours"),
    )
    for name, title in wanted:
        if name not in found:
            continue
        size, rate = _largest(found[name])
        growth = _growth(found[name], at_most=False)
        hours = [users / _carried(rate, growth, size, users, at_most=False) / 3600 for users in FORWARD]
        rows.append([title, f"{number(rate)}/s at {size:,}", *map(number, hours)])
    return rows


def _rates(found: Found) -> list[list[str]]:
    rows = []
    wanted = (
        ("bulk", "bulk creates per second", False),
        ("create p50", "create, one in flight, p50 ms", True),
        ("readable at rest p50", "append to readable, p50 ms", True),
        ("erasure p50", "erasure, p50 ms", True),
        ("written", "written for a create, bytes", True),
    )
    for name, title, at_most in wanted:
        if name not in found:
            continue
        size, figure = _largest(found[name])
        growth = _growth(found[name], at_most=at_most)
        carried = [_carried(figure, growth, size, users, at_most=at_most) for users in FORWARD]
        rows.append(
            [
                title,
                f"{number(figure)} at {size:,}, × {growth:.2f} for ten times as many",
                *map(number, carried),
            ]
        )
    memory = [key for key in found if key.startswith("memory of ")]
    for key in memory:
        size, mb = _largest(found[key])
        growth = _growth(found[key], at_most=True)
        carried = [_carried(mb, growth, size, users, at_most=True) for users in FORWARD]
        rows.append([f"{key}, MB", f"{number(mb)} at {size:,}", *map(number, carried)])
    return rows


def _carried(figure: float, growth: float, size: int, users: int, *, at_most: bool) -> float:
    """A figure at another number of users; not better than it was measured."""
    factor = math.pow(growth, max(math.log10(users / size), 0.0))
    return figure * factor if at_most else figure / factor
