"""Lanes: the grants that decide which worker may issue which ids."""
