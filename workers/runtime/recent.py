"""What command handlers remember of recent streams, where a read waits for another process."""

from __future__ import annotations

import time

from domain.kernel.ports.event_store import EventStore
from domain.kernel.recent_streams import RecentStreams


def recent_streams(store: EventStore) -> RecentStreams | None:
    """An empty memory for one handler; None where a read costs as little as to remember."""
    return RecentStreams(time.monotonic) if store.is_remote else None
