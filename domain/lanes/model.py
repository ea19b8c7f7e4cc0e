"""What the `ids` feature brings to the registry. Lanes are granted by workers, not by commands."""

from __future__ import annotations

from domain.lanes.grants import EVENTS as EVENTS
