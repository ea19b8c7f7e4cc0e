"""One subscription to the store, for several followers of a worker.

Promise: each follower gets what `EventStore.follow` promises, however far behind the others are. Refusal: it keeps a
bounded number of events. A follower behind them reads pages of its own until it has caught up.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter

from domain.kernel.events import BEGINNING, Position, Recorded
from domain.kernel.ports.event_store import CaughtUp, EventStore

_READ = 512
_KEPT = 4 * _READ
_PAGE = 500
_WAIT_S = 0.2
_READS_AHEAD = 8
"""How many reads a follower ahead of the kept events waits for. Then the subscription starts at its position."""

_position = attrgetter("position")


class _Wanted:
    """Whether an event is of these streams and types."""

    def __init__(self, prefixes: Sequence[str] | None, types: Sequence[str] | None) -> None:
        self._prefixes = None if prefixes is None else tuple(prefixes)
        self._types = None if types is None else tuple(types)

    def __call__(self, event: Recorded) -> bool:
        return (self._prefixes is None or event.stream.startswith(self._prefixes)) and (
            self._types is None or event.type.startswith(self._types)
        )


class SharedTail:
    """The last events of one subscription. The follower that has taken all of them reads the next ones for all."""

    def __init__(self, store: EventStore, *, types: Sequence[str] | None = None) -> None:
        """`types`: those that any of the followers wants, as for `EventStore.follow`."""
        self._store = store
        self._types = types
        self._changed = threading.Condition()
        self._is_read = False
        """Whether a follower is reading. No other one uses or replaces the subscription then."""
        self._subscription: Iterator[Recorded | CaughtUp] | None = None
        self._after: Position = BEGINNING
        self._events: list[Recorded] = []
        """All events that follow `_after`, as far as they were read."""
        self._caught_up: CaughtUp | None = None
        """Set while no event was read since."""

    def follow(
        self,
        after: Position,
        *,
        stopped: Callable[[], bool],
        prefixes: Sequence[str] | None = None,
        types: Sequence[str] | None = None,
    ) -> Iterator[Recorded | CaughtUp]:
        """As `EventStore.follow`."""
        # A new follower drops the kept events: after a restore of the store they may be of the lost history.
        with self._changed:
            self._changed.wait_for(lambda: not self._is_read)
            self._drop()
        wanted = _Wanted(prefixes, types)
        ahead = 0
        while not stopped():
            kept = self._next(after, stopped, is_new=ahead > _READS_AHEAD)
            if kept is None:
                head = self._store.head()
                page = list(self._store.read_all(after, _PAGE, prefixes=prefixes))
                yield from filter(wanted, page)
                # Fewer events than a page: they are all up to the head, which was read before them.
                last = page[-1].position if page else after
                after = last if len(page) == _PAGE else max(last, head)
                continue
            events, caught_up = kept
            for event in events:
                if wanted(event):
                    yield event
                    if stopped():
                        return
            after = events[-1].position if events else after
            if caught_up is not None and caught_up.position >= after:
                after = caught_up.position
                yield caught_up
                ahead = 0
            else:
                ahead = 0 if events else ahead + 1

    def _next(
        self, after: Position, stopped: Callable[[], bool], *, is_new: bool
    ) -> tuple[Sequence[Recorded], CaughtUp | None] | None:
        """The events after a position, with `CaughtUp` if they end at the head. Waits until there are some, or 0.2 s.

        None if events after the position are no longer kept. With `is_new` a new subscription starts there.
        """
        with self._changed:
            if self._is_read and not self._has_news(after):
                self._changed.wait(_WAIT_S)
            if not self._is_read and (is_new or self._subscription is None):
                self._drop()
                self._after = after
                self._subscription = self._store.follow(after, stopped=stopped, types=self._types)
            if self._is_read or self._has_news(after) or after < self._after:
                return self._kept(after)
            self._is_read = True
        self._read()
        with self._changed:
            return self._kept(after)

    def _has_news(self, after: Position) -> bool:
        last = self._caught_up or (self._events[-1] if self._events else None)
        return last is not None and last.position > after

    def _kept(self, after: Position) -> tuple[Sequence[Recorded], CaughtUp | None] | None:
        if after < self._after:
            return None
        return self._events[bisect_right(self._events, after, key=_position) :], self._caught_up

    def _read(self) -> None:
        """Read events up to the head, at most 512, and keep them. An error drops all, and the reader raises it."""
        read: list[Recorded] = []
        caught_up: CaughtUp | None = None
        is_open = False
        try:
            for item in self._subscription or ():
                if isinstance(item, CaughtUp):
                    caught_up = item
                else:
                    read.append(item)
                if caught_up is not None or len(read) == _READ:
                    is_open = True
                    break
        finally:
            with self._changed:
                self._is_read = False
                self._keep(read, caught_up)
                if not is_open:  # it failed, or its starter stops
                    self._drop()
                self._changed.notify_all()

    def _keep(self, read: list[Recorded], caught_up: CaughtUp | None) -> None:
        self._events += read
        self._caught_up = caught_up
        dropped = len(self._events) - _KEPT
        if dropped > 0:
            self._after = self._events[dropped - 1].position
            del self._events[:dropped]

    def _drop(self) -> None:
        """Forget the events and the subscription. Followers that need them read them from the store."""
        self._subscription = None
        self._events = []
        self._caught_up = None
