"""`python -P -m workers supervise|serve|doctor`: the processes that `es` starts. Operators use `es`."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

from adapters.log import open_log
from adapters.settings import Settings, load_settings
from adapters.wiring import prepare_home, usual_roles
from domain.features import registry
from domain.kernel.errors import EXIT_CODES, EsError, PartUnavailable
from workers.runtime.control import Control, worker_name
from workers.runtime.supervisor import AlreadyRunning, Supervisor


def main() -> int:
    arguments = _arguments()
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain data keys and personal data
    settings = load_settings(home_flag=arguments.home)
    if arguments.what == "serve":
        return _serve(settings, arguments)
    if arguments.what == "doctor":
        from workers.doctor import examine

        tell = (lambda text: _say({"progress": text})) if arguments.deep else None
        _say({"findings": examine(settings, tell=tell)})
        return 0
    return _supervise(settings, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="workers")
    commands = parser.add_subparsers(dest="what", required=True)
    supervise = commands.add_parser("supervise")
    supervise.add_argument("--role", action="append", default=[], metavar="ROLE[=COUNT]")
    supervise.add_argument("--foreground", action="store_true")
    serve = commands.add_parser("serve")
    serve.add_argument("role")
    serve.add_argument("--instance", type=int, default=1)
    serve.add_argument("--listen-fd", type=int)
    serve.add_argument("--control-fd", type=int)
    doctor = commands.add_parser("doctor")
    doctor.add_argument("--deep", action="store_true")
    for command in (supervise, serve, doctor):
        command.add_argument("--home")
    return parser.parse_args()


# --- supervisor ------------------------------------------------------------------------------


def _supervise(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print one line of JSON: that the supervisor listens, or why it does not. Then run until a signal."""
    try:
        prepare_home(settings)
        log = open_log("supervisor", None if arguments.foreground else settings.log / "supervisor.log")
        supervisor = Supervisor(settings, instances=_instances(arguments.role, settings), log=log)
    except AlreadyRunning:
        _say({"state": "already-running"})
        return 0
    except EsError as error:
        _say({"error": error.to_wire()})
        return EXIT_CODES[error.kind]
    except OSError as error:
        _say({"error": PartUnavailable("the home", f"{settings.run}: {error.strerror}").to_wire()})
        return 1
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: supervisor.stop())
    supervisor.run(on_listening=lambda: _listening(foreground=arguments.foreground))
    return 0


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
    # `es` closes its end of the pipe after this line: a later write would fail.
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _say(message: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):
        print(json.dumps(message), flush=True)  # noqa: T201  # the line that `es` waits for


# --- one worker ------------------------------------------------------------------------------


def _serve(settings: Settings, arguments: argparse.Namespace) -> int:
    from workers.runtime.worker import run_role

    supervised = arguments.control_fd is not None
    role, instance = arguments.role, arguments.instance
    name = worker_name(role, instance)
    log = open_log(name, settings.log / f"{name}.log" if supervised else None)
    control = Control(arguments.control_fd, role=role, instance=instance)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
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


if __name__ == "__main__":
    sys.exit(main())
