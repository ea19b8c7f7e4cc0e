"""A group of commands that are made when they are used."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class LazyGroup(TyperGroup):
    """Subclasses give `list_commands` and `get_command`; an unknown word is answered with the names that are close."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            # typer suggests from the commands that a group holds; these are made on use, so it needs their names.
            self.commands = dict.fromkeys(self.list_commands(ctx))  # type: ignore[assignment]
        return super().resolve_command(ctx, args)
