"""One batch on its way into EventStoreDB.

Promise: the items of a stream are applied in order, each at exactly its expected version, and after an unknown
outcome the same item is sent again with the same event ids. Refusal: no event id is stored twice in a stream, and no
item follows one of its stream whose outcome is unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from uuid import UUID

from esdbclient import exceptions as failures

from adapters.eventstoredb.client import AppendRequest, AppendResponse, Client, append_outcome, append_request
from adapters.eventstoredb.deadline import Deadline
from adapters.eventstoredb.errors import fault_of, too_large
from adapters.eventstoredb.known_ids import KnownIds
from domain.kernel.errors import DuplicateEventId, EsError, VersionConflict
from domain.kernel.events import NO_STREAM
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
        """Send the next item of every stream in one call."""
        due = {line[0]: self._batch[line[0]] for line in self._waiting.values()}
        requests = self._requests(due, client, deadline)
        unknown: Exception | None = None
        for index, response in client.batch_append(requests, timeout_s=deadline.left_s()):
            result: AppendResult
            try:
                result = self._result(due[index], response, client, deadline)
            except failures.EventStoreDBClientException as error:
                fault = fault_of(error, is_cluster=client.is_cluster)
                if fault.retry:
                    unknown = error
                    continue
                result = fault.error
            self._settle(index, result)
        if unknown is not None:
            raise unknown

    def _settle(self, index: int, result: AppendResult) -> None:
        stream = self._batch[index].stream
        self._results[index] = result
        self._waiting[stream].popleft()
        if not self._waiting[stream]:
            del self._waiting[stream]

    def _result(
        self, item: Append, response: AppendResponse, client: Client, deadline: Deadline
    ) -> Appended | VersionConflict:
        outcome = append_outcome(item, response)
        if isinstance(outcome, VersionConflict):
            return outcome
        version, position = outcome.version, outcome.position
        if position is None:
            page = client.stream_page(item.stream, version, size=1, timeout_s=deadline.left_s())
            if not page:
                raise failures.EventStoreDBClientException("the stored event cannot be read")
            position = page[0].position
        # At another version the stream was deleted before, and its first events are hidden.
        if version == item.expected_version + len(item.events):
            ids = [event.event_id for event in item.events]
            self._known_ids.learn(item.stream, item.expected_version + 1, ids)
        return Appended(version, position)

    # --- items that are not sent -------------------------------------------------------------

    def _requests(
        self, due: Mapping[int, Append], client: Client, deadline: Deadline
    ) -> dict[int, AppendRequest]:
        """The messages of the items that can be sent. The others get their results."""
        refused = {index: self._refusal(item, client, deadline) for index, item in due.items()}
        requests: dict[int, AppendRequest] = {}
        # After all reads: the timeout in a message starts when the message is built.
        for index, item in due.items():
            result, request = refused[index], append_request(item, timeout_s=deadline.left_s())
            if result is None and request.ByteSize() > _LARGEST_REQUEST_BYTES:
                result = too_large()
            if result is None:
                requests[index] = request
            else:
                self._settle(index, result)
        return requests

    def _refusal(self, item: Append, client: Client, deadline: Deadline) -> AppendResult | None:
        """Why an item must not be sent: the server would store an event id a second time without an error."""
        ids = [event.event_id for event in item.events]
        try:
            if len(set(ids)) == len(ids) and not self._is_stored(item, ids, client, deadline):
                return None
            last = client.stream_page(item.stream, None, backwards=True, size=1, timeout_s=deadline.left_s())
        except failures.StreamIsDeleted as error:  # a result of this item, not a failure of the batch
            return fault_of(error, is_cluster=client.is_cluster).error
        actual = last[0].version if last else NO_STREAM
        if actual == item.expected_version:
            return DuplicateEventId(item.stream)
        return VersionConflict(item.stream, item.expected_version, actual)

    def _is_stored(self, item: Append, ids: Sequence[UUID], client: Client, deadline: Deadline) -> bool:
        """Whether the stream holds one of these ids at or below the expected version.

        Exact without a lock: versions up to the expected one never change.
        """
        while (version := self._known_ids.reach(item.stream)) <= item.expected_version:
            size = min(item.expected_version - version + 1, _PAGE)
            page = client.stream_page(item.stream, version, size=size, timeout_s=deadline.left_s())
            if not self._known_ids.learn_events(item.stream, version, page):
                break  # the stream ends here or was truncated: the server reports the conflict
        return self._known_ids.any_of(item.stream, ids, up_to=item.expected_version)
