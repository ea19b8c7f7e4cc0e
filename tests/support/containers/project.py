"""A copy of the project that runs in containers, under a name of its own: a system that runs here is not touched.

Promise: commands are those of the documents, with the names of this run. Loopback ports only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.containers.engines import CALL_S, Engine
from tests.support.containers.images import ROOT, Images, named_images
from tests.support.runs import Ran
from tests.support.servers import free_port
from tests.support.waiting import eventually

BASE, CLUSTER = "docker-compose.yml", "docker-compose.cluster.yml"
SHARING = "docker-compose.stand-in.yml"
SHARED = "/var/lib/stand-in"
_COPIED = (
    "Dockerfile",
    ".dockerignore",
    BASE,
    CLUSTER,
    "docker-compose.rabbitmq.conf",
)
_LABEL = "com.docker.compose"


def _context() -> list[str]:
    """What the Dockerfile copies into the image, from the folder of the project."""
    copied = re.findall(r"^COPY (?!--)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return [name for names in copied for name in names.split()]


def documented(document: str, heading: str) -> list[str]:
    """The shell blocks of a section of a document, its parts included."""
    text = (ROOT / document).read_text()
    section = re.search(
        rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,2}} |\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert section, f"{document} has no section {heading!r}"
    return re.findall(r"^```sh\n(.*?)^```", section[2], re.MULTILINE | re.DOTALL)


class Project:
    def __init__(self, engine: Engine, images: Images, folder: Path) -> None:
        """Copy the project into `folder`, whose name is that of the run, and provide the images."""
        self.engine = engine
        self.folder = folder
        self.name = folder.name
        for each in (*_COPIED, *_context()):
            source = ROOT / each
            if source.is_dir():
                shutil.copytree(source, folder / each, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / each)
        files = [folder / each for each in ("Dockerfile", BASE, CLUSTER)]
        provided = {image: images.provide(image) for image in named_images(*(f.read_text() for f in files))}
        for file in files:
            file.write_text(self._changed(file.read_text(), provided))
        self.environment = dict(engine.environment)

    def _changed(self, text: str, images: Mapping[str, str]) -> str:
        text = text.replace("name: es\n", f"name: {self.name}\n").replace(
            "127.0.0.1:15672", f"127.0.0.1:{free_port()}"
        )
        for image, provided in images.items():
            text = re.sub(
                rf"(?<=[ ]){re.escape(image)}$|(?<=FROM ){re.escape(image)}(?= )",
                provided,
                text,
                flags=re.MULTILINE,
            )
        return self.renamed(text)

    def renamed(self, text: str) -> str:
        """With the names of this run instead of `es:latest` and `es_eventstore…`."""
        return re.sub(
            r"\bes_(?=eventstore)", f"{self.name}_", text.replace("es:latest", f"{self.name}:latest")
        )

    # --- commands ----------------------------------------------------------------------------

    def shell(self, script: str) -> str:
        """Run lines of a document in the folder, as an operator does. Fails at the first that fails."""
        done = self._run(script)
        assert done.returncode == 0, (script, done.stdout[-3000:], done.stderr[-5000:])
        return done.stdout

    def succeeds(self, script: str) -> bool:
        return self._run(script).returncode == 0

    def _run(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-ec", self.renamed(script)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * CALL_S,
            check=False,
        )

    def compose(self, *words: str) -> str:
        return self.shell(f"docker compose {' '.join(words)}")

    def es(self, *arguments: str, given: bytes = b"") -> Ran:
        """One command of `es` in a container of its own."""
        return self.start_es(*arguments, given=given).end()

    def start_es(self, *arguments: str, given: bytes = b"") -> Running:
        return Running(self, arguments, given)

    # --- containers --------------------------------------------------------------------------

    def containers(self) -> list[dict[str, Any]]:
        """What the engine says about each container of a service, those of single commands excluded."""
        labels = f"label={_LABEL}.project={self.name}"
        ids = self.engine.do("ps", "--all", "--quiet", "--filter", labels).split()
        shown = [each for id_ in ids for each in self._inspected(id_)]
        return [each for each in shown if _label(each, "oneoff") in ("", "False")]

    def _inspected(self, id_: str) -> list[dict[str, Any]]:
        done = self.engine.run("inspect", id_)  # it may be removed meanwhile
        return list(json.loads(done.stdout)) if done.returncode == 0 else []

    def services(self) -> list[str]:
        """The service of each container."""
        return sorted(_label(each, "service") for each in self.containers())

    def pid(self, service: str) -> int:
        """The process of a service's first container, or 0 if it does not run."""
        states = [each["State"] for each in self.containers() if _label(each, "service") == service]
        return int(next((state["Pid"] for state in states if state["Running"]), 0))

    def kill(self, service: str) -> None:
        """Kill the process, as a crash does: the engine itself has to start the container again."""
        pid = self.pid(service)
        assert pid, f"{service} does not run"
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self.pid(service) not in (0, pid), f"{service} was started again")

    def share(self, folder: Path) -> None:
        """Give the nodes of the stand-in for EventStoreDB a common folder, in a file that Compose merges."""
        folder.chmod(0o777)
        nodes = ("eventstore", "eventstore2", "eventstore3")
        lines = [f'  {node}: {{volumes: ["{folder}:{SHARED}"]}}' for node in nodes]
        (self.folder / SHARING).write_text("\n".join(["services:", *lines, ""]))

    @property
    def files(self) -> str:
        """The compose files of a cluster, as `COMPOSE_FILE` names them."""
        return ":".join([BASE, CLUSTER, SHARING])

    def close(self) -> None:
        """Remove containers, networks, volumes and the image."""
        labels = f"label={_LABEL}.project={self.name}"
        for id_ in self.engine.do("ps", "--all", "--quiet", "--filter", labels).split():
            self.engine.run("rm", "--force", id_)
        for kind in ("network", "volume"):
            names = self.engine.do(kind, "ls", "--quiet", "--filter", f"name={self.name}_").split()
            if names:
                self.engine.run(kind, "rm", "--force", *names) if kind == "volume" else self.engine.run(
                    kind, "rm", *names
                )
        self.engine.run("image", "rm", "--force", f"{self.name}:latest")


def _label(container: Mapping[str, Any], name: str) -> str:
    labels = container["Config"]["Labels"] or {}
    return str(labels.get(f"{_LABEL}.{name}", ""))


class Running:
    """A command of `es` in a container, whose answers can be counted while it runs."""

    def __init__(self, project: Project, arguments: Sequence[str], given: bytes) -> None:
        self._arguments = arguments
        self._out = (project.folder / "stdout").open("w+b")
        self._err = (project.folder / "stderr").open("w+b")
        (project.folder / "stdin").write_bytes(given)
        with (project.folder / "stdin").open("rb") as source:
            self._process = subprocess.Popen(
                ["docker", "compose", "run", "--rm", "--no-deps", "es", *arguments],
                cwd=project.folder,
                env=project.environment,
                stdin=source,
                stdout=self._out,
                stderr=self._err,
            )

    def answers(self) -> int:
        """The number of lines that were printed."""
        self._out.flush()
        return Path(self._out.name).read_bytes().count(b"\n")

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> Ran:
        try:
            code = self._process.wait(CALL_S)
        finally:
            self._process.kill()
        with self._out, self._err:
            return Ran(
                self._arguments, code, *(Path(file.name).read_bytes() for file in (self._out, self._err))
            )
