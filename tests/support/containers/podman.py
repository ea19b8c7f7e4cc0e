"""`docker` over podman and podman-compose: translates the few options that these do not know, and passes on the rest.

podman without systemd runs no health checks. `up --wait` runs them here until every service is healthy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WAIT_S = 300.0
COMPOSE = str(Path(sys.executable).with_name("podman-compose"))
PROFILE = "cli"
"""Of the service `es` in docker-compose.yml."""


def main(words: list[str]) -> int:
    if words[:1] != ["compose"]:
        os.execvp("podman", ["podman", *words])
    rest = words[1:]
    at = _command_at(rest)
    options, command, rest = rest[:at], rest[at], rest[at + 1 :]
    waits = command == "up" and "--wait" in rest
    rest = [word for word in rest if not (command == "up" and word == "--wait")]
    if command == "create":
        command, rest = "up", ["--no-start", *rest]
    if command in ("run", "exec") and "-T" not in rest:
        rest = ["-T", *rest]
    if command == "port":
        service, port = rest
        return _port(service, port)
    if command == "stop":
        return _stop(set(rest))
    if command == "run":
        options = ["--profile", PROFILE, *options]  # docker enables the profile of the service that it runs
    code = subprocess.run([COMPOSE, *options, command, *rest], check=False).returncode
    return code or (_wait(_services(rest)) if waits else 0)


def _port(service: str, port: str) -> int:
    """podman-compose prints the number alone."""
    (name,) = (name for each in _ours({service}) for name in each["Names"])
    return subprocess.run(["podman", "port", name, port], check=False).returncode


def _stop(services: set[str]) -> int:
    """podman-compose stops the first container of a service alone."""
    names = [name for each in _ours(services) for name in each["Names"]]
    return subprocess.run(["podman", "stop", *names], stdout=subprocess.DEVNULL, check=False).returncode


def _services(words: list[str]) -> set[str]:
    """The services that `up` names; none if it means all."""
    values = {at + 1 for at, word in enumerate(words) if word == "--scale"}
    return {word for at, word in enumerate(words) if not word.startswith("-") and at not in values}


def _command_at(words: list[str]) -> int:
    """Where the command is: options before it have one value each."""
    at = 0
    while words[at].startswith("-"):
        at += 2
    return at


def _wait(services: set[str]) -> int:
    """Run the health checks of the containers of this folder, or of some services, until all are healthy."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        ours = _ours(services)
        bad = [name for each in ours for name in each["Names"] if not _is_healthy(name)]
        if ours and not bad:
            return 0
        if time.monotonic() > deadline_s:
            print(f"not healthy: {bad}", file=sys.stderr)
            return 1
        time.sleep(1)


def _ours(services: set[str]) -> list[dict[str, Any]]:
    """The containers of this folder, or of some services, without those of single commands."""
    folder = os.path.realpath(".")
    listed = subprocess.run(["podman", "ps", "--all", "--format", "json"], capture_output=True, check=True)
    return [
        each
        for each in json.loads(listed.stdout or b"[]")
        if (labels := each["Labels"] or {}).get("com.docker.compose.project.working_dir") == folder
        and labels.get("com.docker.compose.oneoff", "False") == "False"
        and (not services or labels.get("com.docker.compose.service") in services)
    ]


def _is_healthy(name: str) -> bool:
    shown = subprocess.run(["podman", "inspect", name], capture_output=True, check=False)
    if shown.returncode:
        return False
    (container,) = json.loads(shown.stdout)
    if container["HostConfig"]["RestartPolicy"]["Name"] in ("", "no"):
        return True  # a single command, which ends
    if not container["State"]["Running"]:
        return False
    if not container["Config"].get("Healthcheck"):
        return True
    return (
        subprocess.run(["podman", "healthcheck", "run", name], capture_output=True, check=False).returncode
        == 0
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
