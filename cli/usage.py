"""Wrong usage as an error whose hint is about this error. `typer` raises its own at the first fault that it finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from domain.kernel.errors import EsError, Kind


class WrongUsage(EsError):
    """An unknown command or option, a missing argument, or a value of the wrong form."""

    message: str
    hint: str
    code = "usage"
    kind = Kind.INVALID

    def __str__(self) -> str:
        return self.message


def wrong_usage(error: Any, root: Any = None, words: Sequence[str] = ()) -> WrongUsage:
    """The error for an exception of typer, which does not tell the command of an option without its value.

    It is the one that `words` name, in the context `root`.
    """
    context = getattr(error, "ctx", None) or (root and _innermost(root, words))
    if context is None:
        return WrongUsage(error.format_message(), "See `es --help`.")
    see = f"See `{context.command_path} --help`."
    if type(error).__name__ == "MissingParameter":
        names = _missing(context)
        message = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    else:
        message = error.format_message().removesuffix(".")
    return WrongUsage(message, " ".join(filter(None, (_advice(error, context), see))))


def _innermost(context: Any, words: Sequence[str]) -> Any:
    """The context of the command that the words name."""
    for word in words:
        find = getattr(context.command, "get_command", None)
        command = find(context, word) if find else None
        if command is None:
            break
        context = type(context)(command, parent=context, info_name=word)
    return context


def _missing(context: Any) -> list[str]:
    """Every missing option and argument. Those that were given are parsed first, so the others are not in `params`."""
    return [
        " ".join(filter(None, (max(param.opts, key=len) if param.opts[0][0] == "-" else "", _value(param))))
        for param in context.command.params
        if param.required and param.name not in context.params
    ]


def _value(param: Any) -> str:
    return str(param.metavar or param.name.upper()).removesuffix("...")


def _advice(error: Any, context: Any) -> str:
    param, option = getattr(error, "param", None), getattr(error, "option_name", None)
    if option is not None:
        return _about_option(option, context)
    if type(error).__name__ == "MissingParameter":
        return example(context.command)
    if param is not None:
        return f"{_value(param)}: {param.help}"
    if hasattr(context.command, "list_commands"):
        names = dict.fromkeys(context.command.list_commands(context))
        return "" if "Did you mean" in error.format_message() else f"There are {', '.join(names)}."
    return example(context.command)


def _about_option(option: str, context: Any) -> str:
    root = context.find_root()
    if context is root and option != "--":
        return "Options of a command follow it, as in `es users list --json`."
    if any(option in param.opts for param in root.command.params):
        return f"{option} precedes the command, as in `es {option} …`."
    return example(context.command)


def example(command: Any) -> str:
    """The first example of a command's help."""
    first = (command.epilog or "").partition("\n")[0].removeprefix("Example: ")
    return f"For example `{first}`." if first else ""
