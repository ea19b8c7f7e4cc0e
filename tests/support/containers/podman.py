"""`docker` over podman and podman-compose: translates the few options that these do not know, and passes on the rest.

podman without systemd runs no health checks. `up --wait` runs them here until every service is healthy. podman-compose 1.0
mixes what it does with the output of a container, and hides its exit code.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

WAIT_S = 300.0


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
    code = _run([*options, command, *rest], tells_code=command in ("run", "exec", "build"))
    return code or (_wait(_services(rest)) if waits else 0)


def _services(words: list[str]) -> set[str]:
    """The services that `up` names; none if it means all."""
    values = {at + 1 for at, word in enumerate(words) if word == "--scale"}
    return {word for at, word in enumerate(words) if not word.startswith("-") and at not in values}


_REMARKS = re.compile(
    rb"\['podman'|using podman version|podman-compose[r ]|podman (run|exec|build|start) |exit code: (\d+)"
)


def _run(words: list[str], *, tells_code: bool) -> int:
    """Run podman-compose. Its remarks, which version 1.0 prints among the output, go to standard error."""
    process = subprocess.Popen(["podman-compose", *words], stdout=subprocess.PIPE)
    assert process.stdout is not None
    told = 0
    for line in process.stdout:
        remark = _REMARKS.match(line)
        stream = sys.stderr.buffer if remark else sys.stdout.buffer
        stream.write(line)
        stream.flush()
        if remark and remark[2]:
            told = int(remark[2])
    return process.wait() or (told if tells_code else 0)


def _command_at(words: list[str]) -> int:
    """Where the command is: options before it have one value each."""
    at = 0
    while words[at].startswith("-"):
        at += 2
    return at


def _wait(services: set[str]) -> int:
    """Run the health checks of the containers of this folder, or of some services, until all are healthy."""
    deadline_s = time.monotonic() + WAIT_S
    folder = os.path.realpath(".")
    while True:
        listed = subprocess.run(
            ["podman", "ps", "--all", "--format", "json"], capture_output=True, check=True
        )
        ours = [
            each
            for each in json.loads(listed.stdout or b"[]")
            if (each["Labels"] or {}).get("com.docker.compose.project.working_dir") == folder
            and (each["Labels"] or {}).get("com.docker.compose.oneoff", "False") == "False"
            and (not services or each["Labels"].get("com.docker.compose.service") in services)
        ]
        bad = [name for each in ours for name in each["Names"] if not _is_healthy(name)]
        if ours and not bad:
            return 0
        if time.monotonic() > deadline_s:
            print(f"not healthy: {bad}", file=sys.stderr)
            return 1
        time.sleep(1)


def _is_healthy(name: str) -> bool:
    shown = subprocess.run(["podman", "inspect", name], capture_output=True, check=False)
    if shown.returncode:
        return False
    (container,) = json.loads(shown.stdout)
    if container["HostConfig"]["RestartPolicy"]["Name"] in ("", "no"):
        return True  # the command line: podman-compose 1.0 knows no profiles and runs it once
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
