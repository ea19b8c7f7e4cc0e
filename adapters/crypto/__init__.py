"""Sealing of personal values, and the key-encryption key that wraps data keys."""
