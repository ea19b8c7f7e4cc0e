"""Lanes: the grants that decide which `ids` worker may issue which ids."""
