"""The system id: which parts belong together.

Each docstring is a contract, and `tests/contract` tests every sentence over every adapter.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID


class Identified(Protocol):
    """A part that carries the id of the system that it belongs to. It is minted with the event store."""

    def system_id(self) -> UUID | None:
        """The id of the part; None if it has none yet: it is new, or of an earlier version."""
        ...

    def claim_system(self, system_id: UUID, *, instead_of: UUID | None = None) -> UUID:
        """Give the part an id if its present one is `instead_of`; return the id that it has now.

        It is durable. Of several programs that do so at once, one succeeds, and all get its id.
        """
        ...
