"""List the erasures that the store has decided, before a query opens anything.

Promise: a vault that was restored from an older copy opens nothing of a person whose erasure it has forgotten, not even
for a moment after the start. Refusal: it destroys nothing; the role `erasures` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from adapters.log import Log
from domain.kernel.errors import EsError
from domain.kernel.events import Position
from workers.runtime.queries import NotYet
from workers.users.owed import Listing

T = TypeVar("T")

_TELL_INTERVAL_S = 1.0
"""The minimum interval between two reports of progress. A usual start ends before the first one."""


class ErasuresNotListed(NotYet):
    """Erasures are still being listed: it is not known yet what may be opened."""


class ErasuresFirst:
    """A follower that ends once the erasures up to the head are listed, and the guard that waits for it."""

    def __init__(
        self,
        listing: Listing,
        *,
        log: Log,
        report: Callable[[EsError | None], None],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`report` is called with an error while the listing takes long, and with None when it has ended."""
        self._listing = listing
        self._log = log
        self._report = report
        self._monotonic_s = monotonic_s
        self._waits_for: EsError | None = ErasuresNotListed(
            "the vault", "its owed erasures are not listed yet"
        )

    def run(self, stopped: Callable[[], bool]) -> None:
        """List up to the head, unless `stopped()`. Raises if a part fails; the next run goes on."""
        told_s = self._monotonic_s()

        def progressed(reached: Position, head: Position) -> None:
            nonlocal told_s
            if self._monotonic_s() - told_s > _TELL_INTERVAL_S:
                told_s = self._monotonic_s()
                self._tell(reached, head)

        try:
            self._listing.up_to_head(stopped, progressed)
        except EsError as error:
            self._waits_for = error
            raise
        if not stopped():
            self._waits_for = None
            self._report(None)

    def guarded(self, open_keys: Callable[[Sequence[int]], T]) -> Callable[[Sequence[int]], T]:
        """The same function, that raises until the erasures are listed."""

        def guarded(subjects: Sequence[int]) -> T:
            if self._waits_for is not None:
                raise self._waits_for.with_traceback(None)
            return open_keys(subjects)

        return guarded

    def _tell(self, reached: Position, head: Position) -> None:
        self._log.info("listing-erasures", position=reached, head=head)
        self._waits_for = ErasuresNotListed(
            "the vault",
            f"erasures are listed up to position {reached} of {head}; until then nothing personal is opened",
            "Wait: `es logs projections` shows the progress, and it ends by itself.",
        )
        self._report(self._waits_for)
