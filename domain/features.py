"""The registry: what the system consists of."""

from __future__ import annotations

from domain.kernel.projection import Projection
from domain.users.projection import Users

ROLES = ("ids", "users", "projections", "erasures", "relay")
"""What workers can be, in the order in which they start; `ids` stops last, because `users` needs it."""

PROJECTIONS: tuple[Projection, ...] = (Users(),)
