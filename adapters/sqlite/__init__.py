"""SQLite: event store, vault and read models in one file each."""
