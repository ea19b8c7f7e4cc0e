"""`es`: the root of the command line.

Promise: a group is imported only when one of its commands is used, and every failure is printed as an error with a hint
and an exit code. Refusal: without `--debug` no traceback is printed.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from cli import OutputFailed, render, session
from cli.lazy_group import LazyGroup
from domain.features import Registry, outside_feature, registry
from domain.kernel.errors import EXIT_CODES, EsError, InvalidInput, InvalidSetting, Kind, UnknownRequest
from domain.kernel.feature import Feature

TOOLS = {
    "load": "Load the workers, and check that nothing was lost.",
    "dead": "Show, retry or drop dead letters.",
    "workers": "Run workers in the foreground, for systemd and containers.",
    "config": "Show the settings and their sources.",
}
"""Groups that belong to no feature, with their help."""
COMMANDS = {
    "up": "Start the workers in the background.",
    "down": "Stop the workers.",
    "status": "Show the workers, and the lag of projections and followers.",
    "doctor": "Examine every configured part.",
    "adopt": "Make a copied or moved home a system of its own.",
    "logs": "Print the logs of the workers.",
    "help": "Show the help of a group or command.",
    "version": "Print the version.",
}
"""Commands that belong to no group, with their line in `es --help`."""


_EXIT_OUTPUT_CLOSED = 141  # what a shell shows for a program ended by SIGPIPE


class Bug(EsError):
    """An exception that is no `EsError`. Only its class is shown: its text may quote personal data."""

    exception: str
    code = "internal"
    hint = "Repeat the command as `es --debug …` and report the output. The output may quote your input."

    def __str__(self) -> str:
        return f"the command line failed with {self.exception}"


class SystemRefused(EsError):
    """The operating system refused something that no command handles in its own way, such as to open one more file."""

    reason: str
    code = "system-refused"
    hint = "Check limits (`ulimit -a`), free disk space and permissions, then retry."

    def __str__(self) -> str:
        return f"the operating system refused: {self.reason}"


class RootGroup(LazyGroup):
    """Finds commands by name, imports them on use, and prints their failures."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        with _printed_failures():
            return super().resolve_command(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        try:
            known = _features(ctx)
            features = known.features
            for broken in known.broken:
                session.note(f"{broken.error}. {broken.error.hint}")
        except EsError as error:  # help works although a setting is wrong
            session.note(f"{error}. {error.hint}")
            features = registry().features
        return [*(feature.name for feature in features if feature.help), *TOOLS, *COMMANDS]

    def make_command(self, ctx: Any, name: str) -> Any:
        # Built-in names first: only another name costs the import of the features in ES_FEATURES.
        for helps, load in ((COMMANDS, typer.main.get_command), (TOOLS, typer.main.get_group)):
            if name in helps:
                return _named(load(import_module(f"cli.{name}").app), name, helps[name])
        feature = registry().feature(name) or _outside(ctx, name)
        if feature is None or not feature.help:
            return None
        return _named(typer.main.get_group(_group_of(feature)), name, feature.help)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        # Before anything is parsed: wrong usage is printed as JSON too.
        options = args[: args.index("--")] if "--" in args else args
        session.options.as_json, session.options.sent, session.options.module = (
            "--json" in options,
            None,
            None,
        )
        with _printed_failures():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        words = [*getattr(ctx, "_protected_args", ()), *ctx.args]  # of which none are left afterwards
        with _printed_failures(ctx, words):
            return super().invoke(ctx)

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            return super().main(*args, **options)
        except (
            OutputFailed
        ) as error:  # of the help, which is printed last for a command without its arguments
            try:
                _output_failed(error)
            except typer.Exit as end:
                sys.exit(end.exit_code)


@contextmanager
def _printed_failures(context: Any = None, words: Sequence[str] = ()) -> Iterator[None]:
    """Print a failure as an error with a hint, or as a JSON object, and exit with its code.

    `words` are those that follow the command of `context`.
    """
    try:
        yield
    except EsError as error:
        _show_trace()
        _fail(error)
    except KeyboardInterrupt as error:
        _interrupted(error if isinstance(error, session.Ended) else session.Ended())
    except OutputFailed as error:
        _show_trace()
        _output_failed(error)
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if session.options.ended is not None:
            _interrupted(session.options.ended)
        message = getattr(error, "format_message", None)  # typer's errors of wrong usage have it
        if message is not None and type(error).__name__ != "NoArgsIsHelpError":
            from cli.usage import wrong_usage

            _fail(wrong_usage(error, context, words))
        if message is not None:
            raise
        _show_trace()
        if isinstance(error, OSError) and error.strerror:
            _fail(SystemRefused(error.strerror))
        _fail(Bug(type(error).__name__))


def _interrupted(by: session.Ended) -> NoReturn:
    if session.options.sent:
        _fail(session.Interrupted(by.name), exit_code=by.exit_code)
    session.note("interrupted")
    raise typer.Exit(by.exit_code) from None


def _output_failed(error: OutputFailed) -> NoReturn:
    if not error.is_closed_pipe:
        _fail(session.OutputLost(error.reason))
    if session.options.sent:
        session.note(f"the answer was not read; the command id is {session.options.sent}")
    raise typer.Exit(_EXIT_OUTPUT_CLOSED) from None


def _show_trace() -> None:
    if session.options.debug:
        import traceback

        traceback.print_exc()


def _fail(error: EsError, *, exit_code: int | None = None) -> NoReturn:
    error = _refused_by_workers(error)
    error.command_id = error.command_id or session.options.sent
    render.show_error(error, as_json=session.options.as_json)
    raise typer.Exit(exit_code or EXIT_CODES[error.kind]) from None


def _refused_by_workers(error: EsError) -> EsError:
    """The reason why no worker handles requests of an outside module, if that is why a command failed."""
    may_be = error.kind is Kind.UNAVAILABLE or error.code == UnknownRequest.code
    if session.options.module is None or not may_be:
        return error
    broken = registry(session.settings().features).broken
    return next((each.error for each in broken if each.module == session.options.module), error)


def _features(ctx: Any) -> Registry:
    """The registry with the features of the settings. Called before `root` has applied the flags, so --home is set here."""
    session.options.home = ctx and ctx.params.get("home")
    return registry(session.settings().features)


def _outside(ctx: Any, name: str) -> Feature | None:
    """The outside feature of a name. Raises InvalidSetting if it may be that of a module that cannot be used."""
    session.options.home = ctx and ctx.params.get("home")
    modules = session.settings().features
    if found := outside_feature(name, modules):
        feature, session.options.module = found
        return feature
    known = registry(modules)
    if known.broken:
        raise known.unknown(InvalidInput(name, "is no command"))
    return None


def _group_of(feature: Feature) -> typer.Typer:
    if feature.cli:
        try:
            own: typer.Typer = import_module(feature.cli).app
        except Exception as error:  # of another package, which may raise anything
            if session.options.module is None:
                raise
            reason = f"name {feature.cli}, which cannot be imported: {type(error).__name__}: {error}"
            raise InvalidSetting("features", reason) from error
        return own
    from cli.feature_group import group_of

    return group_of(feature, Registry((feature,)))


def _named(command: Any, name: str, help_: str) -> Any:
    command.name, command.short_help = name, help_
    command.help = command.help or help_
    return command


app = typer.Typer(
    cls=RootGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An event-sourced system: users, ids, projections and erasures, from the shell.",
    epilog="Example: es help users create",
)


def _version(wanted: bool) -> None:
    if wanted:
        from cli.version import installed

        render.line(f"es {installed()}")
        raise typer.Exit


@app.callback()
def root(
    home: Annotated[
        str | None, typer.Option("--home", metavar="DIR", help="The folder of the data. Overrides ES_HOME.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
    version: Annotated[  # handled by its callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    session.options.home = home
    session.options.debug = debug
