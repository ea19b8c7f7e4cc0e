"""What the `users` feature brings to the registry."""

from __future__ import annotations

from domain.users.account import USER
from domain.users.projection import USERS
from domain.users.registrations import REGISTRATIONS

AGGREGATES = (USER,)
PROJECTIONS = (USERS, REGISTRATIONS)
