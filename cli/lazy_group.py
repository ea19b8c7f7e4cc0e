"""A group whose commands are made on use."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class LazyGroup(TyperGroup):
    """Subclasses override `list_commands` and `get_command`. An error about an unknown command suggests similar names."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            # typer suggests names from `commands`, which is empty here: fill in the names.
            self.commands = dict.fromkeys(self.list_commands(ctx))  # type: ignore[assignment]
        return super().resolve_command(ctx, args)
