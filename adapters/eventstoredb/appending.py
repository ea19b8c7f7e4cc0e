"""One batch on its way into EventStoreDB.

Promise: the items of a stream are applied in order, each at exactly its expected version, and after an unknown
outcome the same item is sent again with the same event ids. Refusal: no event id is stored twice in a stream, and no
item follows one of its stream whose outcome is unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from adapters.eventstoredb.client import Client, StreamPage
from adapters.eventstoredb.deadline import Deadline
from adapters.eventstoredb.driver import failures
from adapters.eventstoredb.errors import deleted, fault_of, too_large
from adapters.eventstoredb.known_ids import KnownIds
from adapters.eventstoredb.messages import AppendRequest, append_outcome, append_request
from domain.kernel.errors import DuplicateEventId, EsError, VersionConflict
from domain.kernel.events import NO_STREAM, Position
from domain.kernel.ports.event_store import Append, Appended, AppendResult

_LARGEST_REQUEST_BYTES = 16 * 1024 * 1024 - 10_000
"""The server ends the call, and so every item of it, at a larger message."""
_PAGE = 500


class Appending:
    """The items of a batch: those with a result, and in the order of their streams those without."""

    def __init__(self, batch: Sequence[Append], known_ids: KnownIds) -> None:
        self._batch = batch
        self._known_ids = known_ids
        self._results: dict[int, AppendResult] = {}
        self._waiting: dict[str, deque[int]] = {}
        for index, item in enumerate(batch):
            self._waiting.setdefault(item.stream, deque()).append(index)

    @property
    def has_results(self) -> bool:
        return bool(self._results)

    def results(self) -> list[AppendResult]:
        """The results in the order of the batch, once every item has one."""
        return [self._results[index] for index in range(len(self._batch))]

    def run(self, client: Client, deadline: Deadline) -> None:
        """Send items until each has a result. Raises if an outcome is unknown; run it again in that case."""
        while self._waiting:
            self._round(client, deadline)

    def give_up(self, error: EsError) -> None:
        """Make `error` the result of each item that has none. Its outcome is unknown, or it was not sent."""
        for line in self._waiting.values():
            self._results.update(dict.fromkeys(line, error))

    def _round(self, client: Client, deadline: Deadline) -> None:
        """Send the next item of every stream over the open call."""
        due = {line[0]: self._batch[line[0]] for line in self._waiting.values()}
        requests = self._requests(due, client, deadline)
        unplaced: dict[StreamPage, int] = {}
        unknown: Exception | None = None
        try:
            for index, response in client.batch_append(requests, timeout_s=deadline.left_s()):
                item = due[index]
                try:
                    outcome = append_outcome(item, response)
                except failures.EventStoreDBClientException as error:
                    fault = fault_of(error, is_cluster=client.is_cluster)
                    if fault.retry:
                        unknown = error
                    else:
                        self._settle(index, fault.error)
                    continue
                if isinstance(outcome, VersionConflict):
                    self._settle(index, outcome)
                elif outcome.position is None:
                    unplaced[StreamPage(item.stream, outcome.version, 1)] = index
                else:
                    self._stored(index, outcome.version, outcome.position)
        except failures.EventStoreDBClientException as error:  # after the responses that came before
            unknown = error
        self._find_positions(unplaced, client, deadline)
        if unknown is not None:
            raise unknown

    def _find_positions(self, stored: Mapping[StreamPage, int], client: Client, deadline: Deadline) -> None:
        """Read the last events of items that were stored before and whose positions the server no longer knows."""
        for page, events in client.stream_pages([*stored], deadline):
            if isinstance(events, failures.StreamIsDeleted):
                self._settle(stored[page], deleted())
            elif not events:
                raise failures.EventStoreDBClientException("the stored event cannot be read")
            else:
                self._stored(stored[page], events[0].version, events[0].position)

    def _stored(self, index: int, version: int, position: Position) -> None:
        item = self._batch[index]
        # At another version the stream was deleted before, and its first events are hidden.
        if version == item.expected_version + len(item.events):
            ids = [event.event_id for event in item.events]
            self._known_ids.learn(item.stream, item.expected_version + 1, ids)
        self._settle(index, Appended(version, position))

    def _settle(self, index: int, result: AppendResult) -> None:
        stream = self._batch[index].stream
        self._results[index] = result
        self._waiting[stream].popleft()
        if not self._waiting[stream]:
            del self._waiting[stream]

    # --- items that are not sent -------------------------------------------------------------

    def _requests(
        self, due: Mapping[int, Append], client: Client, deadline: Deadline
    ) -> dict[int, AppendRequest]:
        """The messages of the items that can be sent. The others get their results."""
        refused = self._refused(due, client, deadline)
        requests: dict[int, AppendRequest] = {}
        # After all reads: the timeout in a message starts when the message is built.
        timeout_s = deadline.left_s()
        for index, item in due.items():
            result = refused.get(index)
            if result is None:
                request = append_request(item, timeout_s=timeout_s)
                if request.ByteSize() <= _LARGEST_REQUEST_BYTES:
                    requests[index] = request
                    continue
                result = too_large()
            self._settle(index, result)
        return requests

    def _refused(
        self, due: Mapping[int, Append], client: Client, deadline: Deadline
    ) -> dict[int, AppendResult]:
        """The results of items that must not be sent: the server would store an event id a second time without an error."""
        duplicates, refused = self._duplicates(due, client, deadline)
        pages = {StreamPage(due[index].stream, None, 1, backwards=True): index for index in duplicates}
        for page, last in client.stream_pages([*pages], deadline):
            index = pages[page]
            if isinstance(last, failures.StreamIsDeleted):
                refused[index] = deleted()
                continue
            stream, expected = due[index].stream, due[index].expected_version
            actual = last[0].version if last else NO_STREAM
            is_expected = actual == expected
            refused[index] = (
                DuplicateEventId(stream) if is_expected else VersionConflict(stream, expected, actual)
            )
        return refused

    def _duplicates(
        self, due: Mapping[int, Append], client: Client, deadline: Deadline
    ) -> tuple[set[int], dict[int, AppendResult]]:
        """The items with an event id twice, or one of their stream's at or below the expected version.

        Also the results of items whose stream was deleted. Exact without a lock: versions up to the expected one never
        change. The streams whose ids are not known are read at once.
        """
        duplicates: set[int] = set()
        refused: dict[int, AppendResult] = {}
        unread: dict[str, tuple[int, int]] = {}  # the index, and the first version that is not known
        for index, item in due.items():
            ids = [event.event_id for event in item.events]
            first, is_used = self._known_ids.look(item.stream, ids, up_to=item.expected_version)
            if is_used or len(set(ids)) < len(ids):
                duplicates.add(index)
            elif first <= item.expected_version:
                unread[item.stream] = index, first
        while unread:
            pages = [
                StreamPage(stream, first, min(due[index].expected_version - first + 1, _PAGE))
                for stream, (index, first) in unread.items()
            ]
            for page, events in client.stream_pages(pages, deadline):
                index, first = unread.pop(page.stream)
                if isinstance(events, failures.StreamIsDeleted):
                    refused[index] = deleted()
                    continue
                self._known_ids.learn_events(page.stream, first, events)
                expected = due[index].expected_version
                stored = {event.event_id for event in events if event.version <= expected}
                if not stored.isdisjoint(event.event_id for event in due[index].events):
                    duplicates.add(index)
                elif len(events) == page.size and first + page.size <= expected:
                    unread[page.stream] = index, first + page.size
                # A shorter page: the stream ends here or was truncated, and the server reports the conflict.
        return duplicates, refused
