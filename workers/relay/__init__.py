"""The `relay` role: publishes stored events."""
