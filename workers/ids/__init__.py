"""The `ids` role: ids out of leases on lanes."""
