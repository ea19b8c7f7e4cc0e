"""The `processes` role: process managers."""
