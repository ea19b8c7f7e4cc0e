"""Groups whose commands are made on use: each once, and unknown names are answered with similar ones."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli.lazy_group import LazyGroup


class Counting(LazyGroup):
    """Offers `made` beside the command of its app, and records which names were requested."""

    requested: list[str]

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), "made"]

    def make_command(self, ctx: Any, name: str) -> Any:
        self.requested.append(name)
        if name != "made":
            return None
        app = typer.Typer(add_completion=False)
        app.command(name)(lambda: print("made ran"))
        return typer.main.get_command(app)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setattr(Counting, "requested", [], raising=False)
    app = typer.Typer(cls=Counting, add_completion=False)
    app.callback()(lambda: None)
    app.command("own")(lambda: print("own ran"))
    return app


@pytest.mark.parametrize(("name", "requested"), [("made", ["made"]), ("own", [])])
def test_a_command_is_made_once_and_only_if_the_module_has_none(
    app: typer.Typer, name: str, requested: list[str]
) -> None:
    ran = CliRunner().invoke(app, [name])

    assert (ran.exit_code, ran.stdout) == (0, f"{name} ran\n")
    assert Counting.requested == requested


def test_an_unknown_name_is_answered_with_a_similar_one(app: typer.Typer) -> None:
    ran = CliRunner().invoke(app, ["mad"])

    assert ran.exit_code == 2
    assert "Did you mean 'made'?" in ran.stderr


def test_help_lists_made_commands(app: typer.Typer) -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout

    assert "own" in shown
    assert "made" in shown
