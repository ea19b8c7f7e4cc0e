"""One connection to the workers: what `es` and `es.Client` share.

Promise: it is opened for the first request and kept. Refusal: nothing of a transport is imported before that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import Future

    from adapters.settings import Settings
    from domain.kernel.errors import EsError
    from domain.kernel.messages import Body, Question
    from domain.kernel.ports.transport import Caller
    from domain.kernel.uuid7 import Uuid7s

TIMEOUT_S = 8.0
"""How long a request waits for its reply, by default."""
_PAGE = 1000


class Connection:
    """A `Caller` that opens itself."""

    def __init__(self, settings: Settings, *, on_absent: Callable[[], bool] | None = None) -> None:
        """`on_absent` is called if no worker listens on the sockets of the home; it returns true if it started them."""
        self._settings = settings
        self._on_absent = on_absent
        self._opened: Caller | None = None

    def _caller(self) -> Caller:
        if self._opened is None:
            from adapters.wiring import open_caller

            self._opened = open_caller(self._settings, on_absent=self._on_absent)
        return self._opened

    def ask(self, role: str, kind: str, body: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S) -> Body:
        """Send one request and return the reply. Raises the `EsError` that the worker replied with."""
        return self._caller().ask(role, kind, body, timeout_s=timeout_s)

    def pipeline(
        self,
        role: str,
        requests: Iterable[Question],
        *,
        timeout_s: float = TIMEOUT_S,
        before_wait: Callable[[], None] = lambda: None,
    ) -> Iterator[Body | EsError]:
        """Send many requests and yield their replies in order: see `Caller.pipeline`."""
        return self._caller().pipeline(role, requests, timeout_s=timeout_s, before_wait=before_wait)

    def exchange(
        self, role: str, requests: Iterable[Question], *, timeout_s: float = TIMEOUT_S
    ) -> Iterator[tuple[int, Body | EsError]]:
        """Send many requests and yield each reply as it arrives: see `Caller.exchange`."""
        return self._caller().exchange(role, requests, timeout_s=timeout_s)

    def listing(
        self, kind: str, body: Mapping[str, Any], name: str, *, limit: int, timeout_s: float = TIMEOUT_S
    ) -> Listing:
        """At most `limit` rows of a list, which are in the field `name` of each reply."""

        def page(bounds: Mapping[str, Any]) -> Body:
            return self.ask("projections", kind, {**body, **bounds}, timeout_s=timeout_s)

        return Listing(page, name, limit)

    def close(self) -> None:
        """Close it. Safe to call twice."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


class Listing:
    """The rows of a list, to be read once. They are requested page by page, each page while the one before is used.

    A worker sends fewer rows than requested if more do not fit in one reply. An error may come after some rows.
    """

    def __init__(self, page: Callable[[Mapping[str, Any]], Body], name: str, limit: int) -> None:
        """`page` asks for a page with these further fields. It is called in another thread, never in two at once."""
        self._page = page
        self._name = name
        self._limit = limit
        self.count = 0
        """How many rows were read so far, with all of their page."""
        self.following: Mapping[str, Any] | None = {}
        """The fields that request the rows after these; None if there are none."""

    def __iter__(self) -> Iterator[Body]:
        rows = self._taken(self._page(self._wanted()))
        while self._is_more:
            upcoming = _asked(partial(self._page, self._wanted()))
            yield from rows
            rows = self._taken(upcoming.result())
        yield from rows

    @property
    def _is_more(self) -> bool:
        return self.following is not None and self.count < self._limit

    def _wanted(self) -> Mapping[str, Any]:
        return {**(self.following or {}), "limit": min(self._limit - self.count, _PAGE)}

    def _taken(self, page: Body) -> Sequence[Body]:
        rows: Sequence[Body] = page[self._name]
        self.following = page["next"]
        self.count += len(rows)
        return rows


def _asked(ask: Callable[[], Body]) -> Future[Body]:
    """What another thread asks for. The thread keeps neither a signal nor the end of the process waiting."""
    from concurrent.futures import Future  # it takes time, and most lists have one page

    reply: Future[Body] = Future()

    def run() -> None:
        try:
            reply.set_result(ask())
        except BaseException as error:
            reply.set_exception(error)

    Thread(target=run, daemon=True, name="next-page").start()
    return reply


def command_body(command_id: str, actor: str, fields: Mapping[str, Any]) -> Body:
    """The body of a request that is a command."""
    return {"command_id": command_id, "actor": actor, "input": dict(fields)}


def chosen_command_id(given: object, *, field: str) -> str:
    """The given command id, or a new one. Raises InvalidInput unless it is the text of a UUID."""
    if given is None:
        return str(_new_ids()())
    from domain.kernel.commands import parse_command_id

    return str(parse_command_id(str(given), field=field))


@cache
def _new_ids() -> Uuid7s:
    """The ids of all commands of this process."""
    from adapters.clock import now_us
    from domain.kernel.uuid7 import Uuid7s

    return Uuid7s(now_us, os.urandom)
