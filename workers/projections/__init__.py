"""The `projections` role: read models, rebuilds and queries."""
