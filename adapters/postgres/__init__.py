"""PostgreSQL: vault and read models."""
