"""The engine that runs containers on this machine: `docker compose`, or podman with `podman-compose`.

Promise: commands are written as the documents write them, with `docker`. Where podman is the engine, a program `docker`
on the path translates what podman-compose does not know.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

CALL_S = 600.0
"""How long one call of the engine may take."""
_PROCESSES = 32_768
"""Of a container, at most: podman asks for more than a root without CAP_SYS_RESOURCE may give."""


@dataclass(frozen=True)
class Engine:
    """`environment` holds the path on which `docker` is the engine."""

    name: str
    environment: Mapping[str, str]

    def run(
        self, *words: str, cwd: Path | None = None, given: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["docker", *words],
            cwd=cwd,
            env=self.environment,
            input=given,
            capture_output=True,
            timeout=CALL_S,
            check=False,
        )

    def do(self, *words: str, cwd: Path | None = None, given: bytes = b"") -> str:
        """What a call that succeeds prints on standard output."""
        done = self.run(*words, cwd=cwd, given=given)
        assert done.returncode == 0, (words, done.stdout[-3000:].decode(), done.stderr[-3000:].decode())
        return done.stdout.decode()


def find_engine(folder: Path) -> Engine:
    """The engine, or a skip that says why there is none. `folder` is for the programs that translate."""
    if os.geteuid() != 0:
        _skip("the test runs as root: it makes images with debootstrap, and kills processes of containers")
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    if shutil.which("sudo") is None:
        _program(folder / "sudo", 'exec "$@"')
    server = ("docker", "version", "--format", "{{.Server.Version}}")
    reasons = [_failure(command, environment) for command in (("docker", "compose", "version"), server)]
    if not any(reasons):
        return Engine("docker", environment)
    # That of this environment: Debian's podman-compose 1.0 knows neither --scale nor the networks of the cluster file.
    compose = str(Path(sys.executable).with_name("podman-compose"))
    reasons += [_failure(command, environment) for command in ((compose, "version"), ("podman", "info"))]
    if any(reasons[2:]):
        _skip("; ".join(filter(None, reasons)))
    shim = Path(__file__).with_name("podman.py")
    _program(folder / "docker", f'exec {sys.executable} {shim} "$@"')
    return Engine("podman", {**environment, **_settings_of_podman(folder)})


def _skip(reason: str) -> NoReturn:
    print(f"no container was started: {reason}")
    pytest.skip(f"needs containers: {reason}")


def _failure(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Why a command does not work here, or nothing."""
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as error:
        return f"`{command[0]}`: {error.strerror}"
    said = (done.stderr or done.stdout).strip().splitlines()
    return "" if done.returncode == 0 else f"`{' '.join(command)}`: {said[-1] if said else done.returncode}"


def _program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def _settings_of_podman(folder: Path) -> dict[str, str]:
    """What podman needs on a machine without systemd, and within our own limits."""
    if "CONTAINERS_CONF" in os.environ:
        return {}
    files, processes = (
        resource.getrlimit(limit)[1] for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
    )
    processes = _PROCESSES if processes < 0 else min(processes, _PROCESSES)
    lines = ["[containers]", f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]']
    lines.append("[engine]")
    if not Path("/run/systemd/system").exists():
        lines.append('cgroup_manager = "cgroupfs"')
    if shutil.which("runc"):  # crun refuses a machine with both versions of cgroups
        lines.append('runtime = "runc"')
    (folder / "containers.conf").write_text(
        "\n".join([*lines, '[network]\nnetwork_backend = "netavark"', ""])
    )
    return {"CONTAINERS_CONF": str(folder / "containers.conf")}
