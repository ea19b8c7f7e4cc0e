"""Compare the read models with the streams that a run created.

Each user's row must show the fold of the stream with the journal's inputs. Of another service a row's version is compared, if its
rows have one. Reading includes every event that is stored when it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Any

from domain.kernel.messages import Body
from es.client import Invalid, NotFound
from load.accounts import Account, folded
from load.effects import note
from load.results import Ledger
from load.scratch import Progress, Scratch

Ask = Callable[[str, Mapping[str, Any]], Body]
"""Sends a query and returns its reply. Raises the errors of `es.Client.ask`."""

_PAGE = 1000
_USERS = """
SELECT e.instance, e.version, e.type, c.input
FROM created s CROSS JOIN events e ON e.prefix = s.prefix AND e.instance = s.instance
LEFT JOIN commands c ON c.id = e.command_id
WHERE s.prefix = 'user-' AND s.kind = 'users.create' ORDER BY s.instance, e.version
"""
_OTHERS = """
SELECT s.kind, s.prefix, s.instance, MAX(e.version)
FROM created s CROSS JOIN events e ON e.prefix = s.prefix AND e.instance = s.instance
WHERE s.prefix <> 'user-' GROUP BY s.prefix, s.instance ORDER BY s.prefix, s.instance
"""
_BOUNDS = "SELECT MIN(instance), MAX(instance) FROM created WHERE prefix = 'user-' AND kind = 'users.create'"


class Rows:
    """Counts rows that disagree with their streams into a ledger. `created` must be filled."""

    def __init__(self, scratch: Scratch, ledger: Ledger, ask: Ask) -> None:
        self._scratch = scratch
        self._ledger = ledger
        self._ask = ask

    def compare(self, on_progress: Progress) -> None:
        done = 0
        for done, (user_id, account) in enumerate(self._matched(), 1):
            if account:
                note(self._ledger, "wrong", account, stream=f"user-{user_id}", operation="users")
            if done % 10_000 == 0:
                on_progress("rows", done)
        on_progress("rows", done)
        self._compare_versions()

    # --- users ---------------------------------------------------------------------------------

    def _matched(self) -> Iterator[tuple[int, str]]:
        """Each user of the run, and how the row differs; empty if it does not. Both sides are read in order of id."""
        rows = self._rows()
        row = next(rows, None)
        for user_id, account in self._accounts():
            while row is not None and int(row["user_id"]) < user_id:
                row = next(rows, None)
            if row is None or int(row["user_id"]) != user_id:
                yield user_id, "the read model has no row"
            elif fields := account.differs_from(row):
                yield user_id, f"the row differs from the stream in {', '.join(fields)}"
            else:
                yield user_id, ""

    def _accounts(self) -> Iterator[tuple[int, Account]]:
        for user_id, events in groupby(self._scratch.rows(_USERS), key=lambda event: event[0]):
            yield user_id, folded((version, type_, given) for _, version, type_, given in events)

    def _rows(self) -> Iterator[Body]:
        """The rows from the first to the last user of the run; those of other users among them."""
        first, last = next(self._scratch.rows(_BOUNDS))
        if first is None:
            return
        following: Body | None = {"after": str(first - 1)} if first > 1 else {}
        while following is not None:
            page = self._ask("users.list", {**following, "limit": _PAGE, "fresh": True})
            for row in page["users"]:
                if int(row["user_id"]) > last:
                    return
                yield row
            following = page["next"]

    # --- other services ------------------------------------------------------------------------

    def _compare_versions(self) -> None:
        for prefix, streams in groupby(self._scratch.rows(_OTHERS), key=lambda stream: stream[1]):
            for kind, _, instance, version in streams:
                shown = self._version(kind.partition(".")[0], prefix, instance)
                if shown is None:
                    break
                if shown != version:
                    why = f"the row shows version {shown}, the stream ends at {version}"
                    note(self._ledger, "wrong", why, stream=f"{prefix}{instance}", operation=kind)

    def _version(self, feature: str, prefix: str, instance: int) -> int | None:
        """The version that a row shows; None if the rows of the feature are of something else, or without a version."""
        try:
            row = self._ask(f"{feature}.get", {"key": str(instance), "fresh": True})
        except (Invalid, NotFound):
            return None
        is_own = row.get(f"{prefix[:-1].replace('-', '_')}_id") == str(instance)
        version = row.get("version")
        return version if is_own and isinstance(version, int) else None
