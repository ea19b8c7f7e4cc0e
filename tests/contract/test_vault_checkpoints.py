"""The vault contract: checkpoints of processes, and their divergences."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from domain.kernel.errors import PartUnavailable
from domain.kernel.events import Position
from domain.kernel.history import History
from domain.kernel.ports.vault import (
    Decided,
    Divergence,
    Vault,
)
from tests.support.vaults import (
    NOW_US,
    PROCESS,
    history,
)

OpenVault = Callable[[], Vault]


def test_a_checkpoint_starts_at_the_beginning_and_is_kept_with_its_marks(
    open_vault: OpenVault, vault: Vault
) -> None:
    assert vault.checkpoint(PROCESS) == History()

    vault.save_checkpoint(PROCESS, history(41))
    vault.save_checkpoint(PROCESS, history(40, 41, 42))

    assert open_vault().checkpoint(PROCESS) == history(40, 41, 42)
    assert vault.checkpoint("another") == History()


def test_a_checkpoint_without_marks_gets_them_at_its_position(vault: Vault) -> None:
    vault.save_checkpoint(PROCESS, History(42))  # as after a migration
    vault.save_checkpoint(PROCESS, history(42))

    assert vault.checkpoint(PROCESS) == history(42)


@pytest.mark.parametrize(
    "move",
    [
        lambda vault, reached: vault.save_checkpoint(PROCESS, reached),
        lambda vault, reached: vault.owe([], now_us=NOW_US, process=PROCESS, reached=reached),
    ],
    ids=["saving", "owing"],
)
def test_a_checkpoint_never_moves_backwards(vault: Vault, move: Callable[[Vault, History], None]) -> None:
    move(vault, history(41, 42))

    move(vault, history(41))

    assert vault.checkpoint(PROCESS) == history(41, 42)


@pytest.mark.parametrize(
    "move",
    [
        lambda vault, since: vault.save_checkpoint(PROCESS, history(50), since=since),
        lambda vault, since: vault.owe(
            [Decided(1, None, 44)], now_us=NOW_US, process=PROCESS, reached=history(50), since=since
        ),
    ],
    ids=["saving", "owing"],
)
@pytest.mark.parametrize("stored", [0, 42])
def test_a_checkpoint_of_an_older_copy_is_not_moved(
    vault: Vault, move: Callable[[Vault, Position], None], stored: Position
) -> None:
    if stored:
        vault.save_checkpoint(PROCESS, history(stored))
    with pytest.raises(PartUnavailable, match=f"is at {stored}, but 43 was saved"):
        move(vault, 43)

    assert (vault.checkpoint(PROCESS).position, vault.owed_of(1)) == (stored, None)

    move(vault, stored)
    assert vault.checkpoint(PROCESS) == history(50)


def test_a_checkpoint_is_rewound_with_its_marks_but_never_forwards(
    open_vault: OpenVault, vault: Vault
) -> None:
    vault.save_checkpoint(PROCESS, history(6, 42))
    for position in (50, 42):
        vault.rewind_checkpoint(PROCESS, history(position), now_us=NOW_US)
    assert vault.checkpoint(PROCESS) == history(6, 42)
    assert vault.divergences() == []

    vault.rewind_checkpoint(PROCESS, history(6), now_us=NOW_US)

    assert open_vault().checkpoint(PROCESS) == history(6)
    assert open_vault().divergences() == [Divergence(PROCESS, 42, 6, NOW_US)]


def test_the_checkpoint_of_an_unknown_process_is_not_rewound(vault: Vault) -> None:
    vault.rewind_checkpoint(PROCESS, History(), now_us=NOW_US)

    assert (vault.checkpoint(PROCESS), vault.divergences()) == (History(), [])


def test_the_last_divergence_of_each_process_is_kept_until_it_is_forgotten(vault: Vault) -> None:
    for process, back_to, at_us in [("relay", 8, 1), (PROCESS, 7, 2), ("relay", 3, 3)]:
        vault.save_checkpoint(process, history(9))
        vault.rewind_checkpoint(process, history(back_to), now_us=at_us)

    assert vault.divergences() == [Divergence(PROCESS, 9, 7, 2), Divergence("relay", 9, 3, 3)]

    vault.forget_findings()

    assert vault.divergences() == []
    assert vault.checkpoint("relay") == history(3)
