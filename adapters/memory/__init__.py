"""The event store in memory, for tests and measurements. Nothing is stored on disk."""
