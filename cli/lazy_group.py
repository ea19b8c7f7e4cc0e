"""Groups whose commands are made when they are used: a command must not pay for the others of its group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

if TYPE_CHECKING:
    from cli.confirm import Describe
    from domain.kernel.commands import Command


class LazyGroup(TyperGroup):
    """Subclasses make commands by name, besides those of their module, and list the names."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._made: dict[str, Any] = {}

    def make_command(self, ctx: Any, name: str) -> Any:
        """The command of a name, or None. Called until it returns a command."""
        raise NotImplementedError

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name) or self._made.get(cmd_name)
        if found is None:
            found = self._made[cmd_name] = self.make_command(ctx, cmd_name)
        return found

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            # typer suggests names from `commands`, which is empty here: fill in the names.
            self.commands = dict.fromkeys(self.list_commands(ctx))  # type: ignore[assignment]
        return super().resolve_command(ctx, args)


def command_group(
    role: str, load: Callable[[], Sequence[type[Command]]], describe: Callable[[], Describe] | None = None
) -> type[TyperGroup]:
    """A group that offers the commands of `load()` beside those of its module.

    `describe()` says for a question who or what a command is about. `load` is called when one of them is used, or when the group is listed. The list begins with commands that create.
    """

    class CommandGroup(LazyGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            offered = _by_name(load())
            creating = [name for name, command in offered.items() if command.creates]
            return [
                *creating,
                *super().list_commands(ctx),
                *(name for name in offered if name not in creating),
            ]

        def make_command(self, ctx: Any, name: str) -> Any:
            command = _by_name(load()).get(name)
            if command is None:
                return None
            from cli.commands import derived

            return derived(command, role, name, describe)

    return CommandGroup


def _by_name(commands: Sequence[type[Command]]) -> dict[str, type[Command]]:
    """The commands that a group offers."""
    return {
        command.request.partition(".")[2]: command
        for command in commands
        if command.request and command.in_group
    }
