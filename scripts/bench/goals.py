"""The lines of the embedded profile, with their goals. A goal counts from a size on."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from scripts.bench.report import Figures, Matrix, Section, Wanted, lines_of

_FLAT = 0.2
"""How much worse the largest size may be than the smallest."""
_ROLES = ("ids", "users", "projections", "erasures", "client")
_FILES = ("events", "read", "vault")

LINES = (
    Wanted("bulk creates per second", "bulk", goals={0: 10_000, 100_000: 7000}, loss=0.3),
    Wanted("  to the bare loop", "bulk", over="bare bulk"),
    Wanted("  to eventsourcing, one aggregate a save", "bulk", over="eventsourcing creates per second"),
    Wanted(
        "  to python-event-sourcery, one stream an append",
        "bulk",
        over="python-event-sourcery creates per second",
    ),
    Wanted("create, one in flight, p50 ms", "create p50", goals={0: 1.2}, at_most=True, loss=_FLAT),
    Wanted("  to the bare loop", "create p50", over="bare create p50", at_most=True),
    Wanted("  to eventsourcing", "create p50", over="eventsourcing create p50", at_most=True),
    Wanted("  to python-event-sourcery", "create p50", over="python-event-sourcery create p50", at_most=True),
    Wanted("create, one in flight, p99 ms", "create p99", goals={0: 6}, at_most=True, loss=_FLAT),
    Wanted("creates per second, one in flight", "one in flight", loss=_FLAT),
    Wanted("creates per second, 64 in flight", "in flight", goals={0: 5000}, loss=_FLAT),
    Wanted("  to the bare loop in groups of 64", "in flight", over="bare in flight"),
    Wanted("rename, one in flight, p50 ms", "rename p50", at_most=True, loss=_FLAT),
    Wanted("  to the bare loop", "rename p50", over="bare rename p50", at_most=True),
    Wanted("rename, one in flight, p99 ms", "rename p99", at_most=True, loss=_FLAT),
    Wanted("get, one in flight, p50 ms", "get p50", at_most=True, loss=_FLAT),
    Wanted("  to a bare echo from a dictionary", "get p50", over="bare get p50", at_most=True),
    Wanted("  to eventsourcing, in its own process", "get p50", over="eventsourcing get p50", at_most=True),
    Wanted("get, one in flight, p99 ms", "get p99", at_most=True, loss=_FLAT),
    Wanted("list, a page of 100, p50 ms", "list page p50", at_most=True, loss=_FLAT),
    Wanted("append to readable, p50 ms", "readable at rest p50", goals={0: 5}, at_most=True, loss=_FLAT),
    Wanted("append to readable, p99 ms", "readable at rest p99", goals={0: 25}, at_most=True, loss=_FLAT),
    Wanted(
        "  at 1,000 commands/s, p50 ms", "readable under load p50", goals={0: 5}, at_most=True, loss=_FLAT
    ),
    Wanted(
        "  at 1,000 commands/s, p99 ms", "readable under load p99", goals={0: 25}, at_most=True, loss=_FLAT
    ),
    Wanted("  commands/s that it was", "load beside"),
    Wanted("erasure, p50 ms", "erasure p50", goals={0: 50}, at_most=True, loss=_FLAT),
    Wanted("  to the bare loop", "erasure p50", over="bare erasure p50", at_most=True),
    Wanted(
        "creates beside 10 erasures/s, share of those alone",
        "beside erasures, share",
        goals={0: 0.8},
        loss=_FLAT,
    ),
    Wanted("  erasures/s that it was", "erasures beside"),
    Wanted("events rebuilt per second", "rebuild", loss=_FLAT),
    Wanted("  to the bare loop", "rebuild", over="bare rebuild", goals={10_000: 1.2}),
    Wanted("  to a replay of eventsourcing", "rebuild", over="eventsourcing replay"),
    Wanted("users list, rows per second", "list", goals={100_000: 50_000}),
    Wanted("  to the bare loop", "list", over="bare list"),
    Wanted("CPU of all roles for a create, ms", "CPU", at_most=True, loss=_FLAT),
    Wanted("  to the bare loop", "CPU", over="bare CPU", at_most=True),
    Wanted("written for a create, bytes", "written", goals={0: 6000}, at_most=True, loss=_FLAT),
    Wanted("  to the bare loop", "written", over="bare written", at_most=True),
    Wanted("stored for a user, bytes", "stored", goals={0: 900}, at_most=True, loss=_FLAT),
    *(Wanted(f"  in {name}.db", f"stored in {name}", at_most=True) for name in _FILES),
    *(
        Wanted(
            f"  in {name}.db, to the bare rows",
            f"stored in {name}",
            over=f"bare stored in {name}",
            at_most=True,
        )
        for name in ("events", "vault")
    ),
    Wanted("projections at rest, % of a core", "rest of projections", goals={0: 1}, at_most=True),
    Wanted("erasures at rest, % of a core", "rest of erasures", goals={0: 1}, at_most=True),
    *(
        Wanted(f"memory of {role}, MB at most", f"memory of {role}", at_most=True, loss=_FLAT)
        for role in ("ids", "users", "erasures")
    ),
    Wanted(
        "memory of projections, MB at most", "memory of projections", goals={0: 150}, at_most=True, loss=_FLAT
    ),
    Wanted("start of `es ids next`, ms", "es ids next", at_most=True),
    Wanted("  to `import typer`", "es ids next", over="import typer", at_most=True),
    Wanted("start of `es users list --limit 1`, ms", "es users list", at_most=True),
    Wanted("  to `import typer`", "es users list", over="import typer", at_most=True),
)


def section(figures: Figures, notes: Sequence[str]) -> Section:
    return Section(
        "The embedded profile",
        lines_of(LINES, figures),
        counts="users",
        matrix=by_role(figures, _ROLES),
        matrix_title="for a create",
        notes=notes,
    )


def by_role(figures: Figures, roles: Sequence[str]) -> Matrix:
    """CPU time and bytes written of each role, at each size."""
    rows: dict[str, dict[str, float]] = {}
    for what, name in (("CPU, ms", "CPU of"), ("bytes written", "written by")):
        for role in roles:
            for size, found in figures.of(f"{name} {role}").items():
                rows.setdefault(f"{what}, {size:,} users", {})[role] = statistics.median(found)
    return rows
