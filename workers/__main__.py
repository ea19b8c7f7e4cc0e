"""`python -P -m workers supervise|serve|translate|doctor|adopt`: the processes that `es` starts. Operators use `es`."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from adapters.local.home_lock import stop_mark
from adapters.log import Log, open_log
from adapters.settings import Settings, load_settings
from adapters.wiring import check_extras, place_temporary_files, prepare_home, usual_roles
from domain.features import registry
from domain.kernel.errors import EXIT_CODES, EsError, Kind, PartUnavailable
from workers.runtime.control import Control, worker_name
from workers.runtime.supervisor import AlreadyRunning, Supervisor, take_lock


def main() -> int:
    arguments = _arguments()
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain data keys and personal data
    settings = load_settings(home_flag=arguments.home)
    place_temporary_files(settings)  # before any thread starts: it changes the environment
    if arguments.what == "serve":
        return _serve(settings, arguments)
    if arguments.what == "translate":
        return _translate(settings, arguments)
    if arguments.what == "doctor":
        from workers.doctor import examine

        tell = (lambda text: _say({"progress": text})) if arguments.deep else None
        _say({"findings": examine(settings, tell=tell)})
        return 0
    if arguments.what == "adopt":
        return _adopt(settings, arguments)
    return _supervise(settings, arguments)


def _translate(settings: Settings, arguments: argparse.Namespace) -> int:
    """Write what `workers.projections.ahead` reads."""
    from workers.projections.ahead import end_with_parent, translate

    end_with_parent()
    with suppress(BrokenPipeError, EsError):  # the process that reads goes on alone
        translate(
            settings,
            arguments.projection,
            arguments.code,
            arguments.after,
            arguments.until,
            sys.stdout.buffer,
        )
    return 0


def _adopt(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print one line of JSON: what was found and done, or why not."""
    from workers.adopt import adopt

    try:
        prepare_home(settings)
        done = adopt(settings, moved=arguments.moved, named=arguments.named, apply=arguments.apply)
    except EsError as error:
        _say({"error": error.to_wire()})
        return EXIT_CODES[error.kind]
    _say({"done": done})
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="workers")
    commands = parser.add_subparsers(dest="what", required=True)
    supervise = commands.add_parser("supervise")
    supervise.add_argument("--role", action="append", default=[], metavar="ROLE[=COUNT]")
    supervise.add_argument("--foreground", action="store_true")
    supervise.add_argument("--unless-stopped", action="store_true")
    serve = commands.add_parser("serve")
    serve.add_argument("role")
    serve.add_argument("--instance", type=int, default=1)
    serve.add_argument("--listen-fd", type=int)
    serve.add_argument("--control-fd", type=int)
    translate = commands.add_parser("translate")
    translate.add_argument("--projection", required=True)
    translate.add_argument("--code", required=True)
    translate.add_argument("--after", type=int, required=True)
    translate.add_argument("--until", type=int, required=True)
    doctor = commands.add_parser("doctor")
    doctor.add_argument("--deep", action="store_true")
    adopt = commands.add_parser("adopt")
    adopt.add_argument("--moved", action="store_true")
    adopt.add_argument("--with", dest="named", action="append", default=[])
    adopt.add_argument("--apply", action="store_true")
    for command in (supervise, serve, translate, doctor, adopt):
        command.add_argument("--home")
    return parser.parse_args()


# --- supervisor ------------------------------------------------------------------------------


def _supervise(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print one line of JSON: that the supervisor listens, or why it does not. Then run until a signal."""
    try:
        prepare_home(settings)
        log = open_log("supervisor", None if arguments.foreground else settings.log / "supervisor.log")
        lock = take_lock(settings)
        # After the lock was taken: `es down` marks the home first, and then looks for a holder of the lock.
        if arguments.unless_stopped and stop_mark(settings.home).exists():
            lock.close()
            _say({"state": "stopped"})
            return 0
        check_extras(settings)
        if not (arguments.unless_stopped or arguments.foreground):
            stop_mark(settings.home).unlink(missing_ok=True)
        supervisor = Supervisor(
            settings,
            lock,
            instances=_instances(arguments.role, settings),
            is_foreground=arguments.foreground,
            log=log,
        )
    except AlreadyRunning:
        if arguments.foreground:
            reason = f"another one serves {settings.home}"
            return _not_supervising(
                PartUnavailable("the supervisor", reason, "Stop it first (`es down`)."), arguments
            )
        _say({"state": "already-running"})
        return 0
    except EsError as error:
        return _not_supervising(error, arguments)
    except OSError as error:
        return _not_supervising(PartUnavailable("the home", f"{settings.home}: {error.strerror}"), arguments)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: supervisor.stop())
    in_order = supervisor.run(on_listening=lambda: _listening(foreground=arguments.foreground))
    return 0 if in_order else EXIT_CODES[Kind.UNAVAILABLE]


def _not_supervising(error: EsError, arguments: argparse.Namespace) -> int:
    """Tell `es`, or the terminal in the foreground, why there is no supervisor; the exit code."""
    if arguments.foreground:
        open_log("supervisor", None).error("supervisor-gives-up", error)
    else:
        _say({"error": error.to_wire()})
    return EXIT_CODES[error.kind]


def _instances(given: list[str], settings: Settings) -> dict[str, int]:
    """The number of workers per role. `ids=2` sets one number; a role without a number excludes the roles not given."""
    named = {role: count for role, _, count in (item.partition("=") for item in given)}
    alone = any(not count for count in named.values())
    usual = [] if alone else [role.name for role in usual_roles(settings)]
    known = registry(settings.features).role_names
    return {role: int(named.get(role) or 1) for role in known if role in named or role in usual}


def _listening(*, foreground: bool) -> None:
    if foreground:
        return
    _say({"state": "listening", "pid": os.getpid()})
    _let_go_of_the_terminal()  # `es` closes its end of the pipe after this line: a later write would fail


def _let_go_of_the_terminal() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _say(message: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):
        print(json.dumps(message), flush=True)  # noqa: T201  # the line that `es` waits for


# --- one worker ------------------------------------------------------------------------------


def _serve(settings: Settings, arguments: argparse.Namespace) -> int:
    supervised = arguments.control_fd is not None
    role, instance = arguments.role, arguments.instance
    name = worker_name(role, instance)
    log = open_log(name, settings.log / f"{name}.log" if supervised else None)
    control = Control(arguments.control_fd, role=role, instance=instance)
    if supervised:
        _let_go_of_the_terminal()  # from here on the log has everything; what Python prints may hold personal data
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    threading.excepthook = lambda crashed: log.error(
        "thread-crashed", crashed.exc_value or crashed.exc_type()
    )
    try:
        run_role = _loaded(role, settings, log)
        run_role(role, settings, listen_fd=arguments.listen_fd, control=control, stopping=stopping, log=log)
        return 0
    except EsError as error:
        log.error("worker-gives-up", error)
        control.fails(error)
        return EXIT_CODES[error.kind]
    except Exception as error:
        log.error("worker-crashed", error)
        control.fails(error)
    finally:
        stopping.set()
        control.close()
    return 1


def _loaded(role: str, settings: Settings, log: Log) -> Callable[..., None]:
    """`run_role`, once all code of the role is imported. Raises PartUnavailable with the cause."""
    try:
        from workers.runtime.worker import run_role

        if known := registry(settings.features).role(role):
            import_module(known.service)
        return run_role
    except EsError:
        raise
    except Exception as error:  # no data was read yet, so its text holds none
        log.error("worker-not-loaded", error)
        raise PartUnavailable(
            f"the code of the {role} worker",
            f"{type(error).__name__}: {error}",
            f"See `es logs {role}`, and repair the installation or the feature in ES_FEATURES.",
        ) from error


if __name__ == "__main__":
    sys.exit(main())
