"""What the tests of the EventStoreDB adapter share: a store with the usual steps, and time limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from adapters.eventstoredb.event_store import EventStoreDbStore
from domain.kernel.events import BEGINNING, NO_STREAM, EventData, Recorded
from domain.kernel.ports.event_store import Append, AppendResult, CaughtUp
from tests.support import builders
from tests.support.builders import a_stream, some_events
from tests.support.waiting import DEADLINE_S, before

SHORT_CALL_S = 0.3
"""The timeout of one attempt where the server never answers. Slow attempts are retried too."""
GIVE_UP_S = 5.0
"""The time for a call that is never answered. Its neighbours need less."""
SLACK_S = 1.0
"""What a busy machine may add to a time limit."""


def an_item(stream: str | None = None, version: int = NO_STREAM, *, count: int = 1) -> Append:
    return Append(stream or a_stream(), version, some_events(count))


def types_of(results: Iterable[object]) -> list[type]:
    return [type(result) for result in results]


def until_caught_up(following: Iterator[Recorded | CaughtUp]) -> list[Recorded]:
    seen: list[Recorded] = []
    for item in following:
        if isinstance(item, CaughtUp):
            break
        seen.append(item)
    return seen


class Store(EventStoreDbStore):
    def write(self, stream: str | None = None, version: int = NO_STREAM, *, count: int = 1) -> AppendResult:
        """Append events, to a new stream unless one is given."""
        return self.append([an_item(stream, version, count=count)])[0]

    def stored(self, stream: str) -> list[EventData]:
        return builders.stored(self, stream)

    def versions(self, stream: str, first: int = 0, *, backwards: bool = False) -> list[int]:
        return [event.version for event in self.read_stream(stream, first, backwards=backwards)]

    def found(self, *prefixes: str) -> list[str]:
        """The streams of all events, in commit order, one per event."""
        return [event.stream for event in self.read_all(BEGINNING, 1000, prefixes=prefixes or None)]

    def live(self, *prefixes: str) -> Iterator[Recorded | CaughtUp]:
        return self.follow(BEGINNING, stopped=before(DEADLINE_S), prefixes=prefixes or None)

    def caught_up(self, *prefixes: str) -> Iterator[Recorded | CaughtUp]:
        """A follower that has caught up once."""
        following = self.live(*prefixes)
        until_caught_up(following)
        return following

    def followed(self, *prefixes: str) -> list[str]:
        """Like `found`, over a subscription."""
        return [event.stream for event in until_caught_up(self.live(*prefixes))]


OpenStore = Callable[..., Store]
"""`open_store(url="", *, call_timeout_s, settle_s)` opens a store, at the test node without a URL."""
