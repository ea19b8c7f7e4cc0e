"""What the `streams` feature brings to the registry."""

from __future__ import annotations

from domain.streams.projection import STREAMS

PROJECTIONS = (STREAMS,)
