"""Questions: asked where they can be seen and answered, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli import confirm, session
from domain.kernel.errors import InvalidInput, PartUnavailable


@pytest.mark.parametrize("terminals", [{"stdin"}, {"stderr"}, set()], ids=str)
def test_a_question_that_cannot_be_seen_or_answered_is_not_asked(
    terminals: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("stdin", "stderr"):
        monkeypatch.setattr(f"sys.{name}.isatty", lambda name=name: name in terminals, raising=False)

    confirm.ask_on_terminal("Sure?", yes=False, about=lambda: "this row")
    with pytest.raises(InvalidInput, match="--yes"):
        session.ask_first("Sure?", because="it is final", yes=False)

    assert capsys.readouterr().err == ""


def test_a_question_is_introduced_although_its_subject_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def unreadable() -> str:
        raise PartUnavailable("the vault", "it is damaged")

    monkeypatch.setattr(session, "is_interactive", lambda: True)
    answer = tmp_path / "answer"
    answer.write_text("y\n")
    with answer.open() as typed:
        monkeypatch.setattr("sys.stdin", typed)
        confirm.ask_on_terminal("Sure?", yes=False, about=unreadable)

    shown = capsys.readouterr().err
    assert "cannot be shown: the vault is unavailable: it is damaged" in shown
    assert "Sure?" in shown
