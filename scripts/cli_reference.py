"""The text of docs/cli.md, written from the commands: their help, arguments and options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from cli.main import COMMANDS, TOOLS, app
from domain.features import registry

HEAD = """# The command line

`make docs` generates this page from the commands; `make check` fails when it is out of date.

- Standard output is the answer, standard error is everything else.
- A terminal gets tables that fit its width: long texts end with `…`, columns without room are named below, times are to the
  second. Colour marks what needs an operator (`NO_COLOR` is respected). Changes say what happened. Events and logs are
  laid out for reading. Only this form may change between versions.
- A pipe gets values for scripts: a new id, the position of a change, lists as tab-separated lines without a header, logs
  as the JSON lines that were written. Nothing is shortened.
- A list that its default limit cuts says so on standard error, with the command for the others. With a `--limit` of yours
  it does so on a terminal only.
- `es users delete` and `es gdpr erase` show on a terminal whom they are about, and ask; `--yes` answers. Without a terminal
  `delete` goes ahead, and `erase` refuses without `--yes`.
- `--json` gives one JSON object; a list gives one object per line. Ids are decimal strings, because they
  exceed 2^53. Times are RFC 3339 UTC.
- A command that changes something takes `--command-id UUID`, and `--json` shows the one it used. A retry with
  the same id is safe and gives the first answer.
- In JSON a user or event that cannot be read in full has a field `unreadable`, with the reason by field:
  `{"status": "unreadable", "name": null, "unreadable": {"name": "tampered"}}`; see "Unreadable data" in operations.md.
- `--from FILE|-` takes one JSON object per line, each with an optional `"command_id"`. It answers each line in
  order, with the answer or `{"line", "command_id", "error": {"code", "message", "hint"}}`.

| exit | meaning |
| --- | --- |
| 0 | done |
| 1 | refused by a rule (e-mail taken, user deleted, …), or a verification found something |
| 2 | wrong usage or invalid input |
| 3 | no such thing |
| 4 | unavailable, or the outcome is unknown: a retry with the command id shown is safe |
| 5 | damaged: tampered data, or a part whose content this program did not write |
| 130, 143 | interrupted by Ctrl-C, ended by SIGTERM |
| 141 | the reader of standard output closed it (as in `\\| head -1`) |

"""


def reference() -> str:
    """The whole of docs/cli.md."""
    return HEAD + "\n".join(_sections())


def _groups() -> list[str]:
    return [*(feature.name for feature in registry().features if feature.help), *TOOLS]


def _sections() -> Iterator[str]:
    root = typer.main.get_group(app)
    yield "## es\n\n" + _options(root)
    for name in [*_groups(), *COMMANDS]:
        command: Any = root.get_command(None, name)  # type: ignore[arg-type]  # no context is needed
        if name in COMMANDS:
            yield _command(f"es {name}", command)
            continue
        yield f"## es {name}\n\n{command.help}\n"
        yield from _below(f"es {name}", command)


def _below(title: str, group: Any) -> Iterator[str]:
    """The commands of a group, and those of the groups in it."""
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        yield _command(f"{title} {name}", command)
        if hasattr(command, "list_commands"):
            yield from _below(f"{title} {name}", command)


def _command(title: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([title, *(_argument(p) for p in arguments), "[OPTIONS]"])
    return f"### {title}\n\n```\n{usage}\n```\n\n{command.help}\n\n{_example(command)}{_options(command)}"


def _example(command: Any) -> str:
    return f"```\n{command.epilog.removeprefix('Example: ')}\n```\n\n" if command.epilog else ""


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper()
    return name if param.required else f"[{name}]"


def _options(command: Any) -> str:
    rows = []
    for param in command.params:
        if param.name == "help":
            continue
        if param.param_type_name == "argument":
            rows.append((_argument(param), param.help or ""))
            continue
        names = ", ".join([*param.opts, *param.secondary_opts])
        value = "" if param.is_flag else f" {param.metavar or param.type.name.upper()}"
        default = "" if param.is_flag or param.default in (None, "") else f" Default: {param.default}."
        rows.append((names + value, (param.help or "") + default))
    lines = [f"| `{_cell(left)}` | {_cell(right)} |" for left, right in rows]
    return "\n".join(["| | |", "| --- | --- |", *lines, ""]) if lines else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
