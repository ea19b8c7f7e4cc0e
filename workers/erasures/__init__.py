"""The `erasures` role: the process that carries an erasure through."""
