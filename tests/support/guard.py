"""End what a test session started, however the session itself ends.

It reads a plan, one line of JSON, from standard input, starts the plan's server if there is one, and waits until its
standard input closes. The session closes it, or the kernel does when the session is killed. Then it ends the
server, runs the plan's commands and removes the plan's folder:

    {"server": [argument…] | null, "afterwards": [[argument…]…], "environment": {…}, "user": name | null,
     "folder": path | null}

It runs in a session of its own, because Ctrl-C reaches every process of a terminal's foreground, and the fixtures
still need the servers for their clean-up. If a server ends early, the file `ended` appears in the folder. Its output
is in `said`. The exit code is that of the first command that failed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

END_S = 60.0
"""How long a server or a command may take before it is killed."""


def main() -> int:
    plan = json.loads(sys.stdin.readline())
    server = _start(plan) if plan["server"] else None
    sys.stdin.read()
    if server is not None:
        _end(server)
    codes = [_run(command, plan) for command in plan["afterwards"]]
    if plan["folder"]:
        shutil.rmtree(plan["folder"], ignore_errors=True)
    return next(filter(None, codes), 0)


def _start(plan: dict[str, Any]) -> subprocess.Popen[bytes]:
    folder = Path(plan["folder"])
    with (folder / "said").open("wb") as said:
        server = subprocess.Popen(
            plan["server"],
            env=plan["environment"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd="/",
            start_new_session=True,  # so that its child processes can be killed with it
        )

    def mark_end() -> None:
        server.wait()
        with suppress(OSError):  # the folder may have been removed
            (folder / "ended").touch()

    threading.Thread(target=mark_end, daemon=True).start()
    return server


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(END_S)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _run(command: list[str], plan: dict[str, Any]) -> int:
    try:
        return subprocess.run(
            command,
            env=plan["environment"],
            user=plan["user"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            timeout=END_S,
            check=False,
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return 1


if __name__ == "__main__":
    sys.exit(main())
