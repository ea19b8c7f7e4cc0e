"""The events of the `ids` feature, for the registry. It has no aggregate with commands: workers grant lanes."""

from __future__ import annotations

from domain.lanes.events import EVENTS as EVENTS
