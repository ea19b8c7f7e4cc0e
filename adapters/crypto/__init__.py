"""Sealing of personal values, and the key-encryption key."""
