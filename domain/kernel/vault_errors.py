"""Errors of the vault that more than one adapter raises."""

from __future__ import annotations

from domain.kernel.errors import KeyUnavailable, PartUnavailable


def residue_left() -> PartUnavailable:
    """A key is destroyed, but a reader of the vault keeps its old bytes in a file."""
    return PartUnavailable(
        "vault",
        "a reader prevents the removal of the bytes of a destroyed key",
        "`erasures` retries. End long-running readers of the vault.",
    )


def vault_behind(process: str, position: int, seen: int) -> PartUnavailable:
    """The vault holds a checkpoint before one that was saved in it: it was restored from an older copy."""
    return PartUnavailable(
        "vault",
        f"its checkpoint of {process} is at {position}, but {seen} was saved in it before",
        "It was restored from an older copy. Workers go on from its checkpoint, and erase again what was erased since.",
    )


def vault_emptied() -> KeyUnavailable:
    """The vault is empty, although the event store contains users whose keys and claims it must hold."""
    return KeyUnavailable("the vault is empty, but the event store contains users")
