"""Values that a shell completes."""

from __future__ import annotations

from cli import completion
from domain.users.commands import BASES


def test_reasons_of_an_erasure_are_completed_with_their_meaning() -> None:
    assert completion.bases("") == [*BASES.items()]
    assert completion.bases("ret") == [("retention", BASES["retention"])]
