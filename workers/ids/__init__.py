"""The `ids` role: it issues ids from leases on lanes."""
