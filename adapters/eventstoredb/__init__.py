"""EventStoreDB and KurrentDB: the event store."""
