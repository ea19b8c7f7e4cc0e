"""What a test node is for one call."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    LEADER = "leader"  # or a follower, where the call does not require the leader
    FOLLOWER = "follower"
    ELECTING = "electing"  # no node leads: the server is not ready
