"""The limits of grants, leases and requests for ids.

Promise: workers, the command line and the tests take them from here alone. Positions are counted as in
`domain.kernel.ids`.
"""

from __future__ import annotations

from domain.kernel.ids import POSITIONS_PER_MS

POSITIONS_PER_S = 1000 * POSITIONS_PER_MS
AHEAD = POSITIONS_PER_S
"""How far a position may lie ahead of the store's clock: one second, 4,096,000 positions."""
MIN_LEASE_MS = 1000
MAX_LEASE_MS = 300_000
MAX_LEASE = MAX_LEASE_MS * POSITIONS_PER_MS
"""The longest grant, in positions."""
ORDERED_COUNT = 65_536
"""The largest request that comes from the worker's lease, in strict order. Larger ones may get their own grants."""
COUNT_MAX = 1 << 31
"""The most ids in one request."""
CHECK_MAX = 1000
"""The most ids in one request that checks them."""
