"""The images that the compose files name: the real ones where they are here or can be fetched, stand-ins elsewhere.

A stand-in is Debian with the servers of its packages, or the test node. Its name begins with `es-stand-in`, so
that it is never taken for the real one, and the run prints it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

from tests.support.containers.engines import Engine

ROOT = Path(__file__).parents[3]
IMAGES = Path(__file__).with_name("images")
SUITE = "trixie"
PACKAGES = (
    "ca-certificates",
    "curl",
    "openssl",
    "procps",
    "python3",
    "python3-venv",
    "rabbitmq-server",
    "postgresql",
)
_EXTRAS = ("eventstoredb", "postgres")
_NAMED = re.compile(r"^(?:FROM|\s+image:) (\S+)", re.MULTILINE)
Say = Callable[[str], None]


def named_images(*texts: str) -> list[str]:
    """The images of servers and of Python in the text of compose files and Dockerfiles."""
    names = {name for text in texts for name in _NAMED.findall(text)}
    return sorted(name for name in names if ":" in name and not name.startswith("es:"))


class Images:
    """Makes stand-ins on demand. `close` removes those that it made."""

    def __init__(self, engine: Engine, cache: Path, say: Say) -> None:
        self._prefix = f"es-stand-in-{uuid4().hex[:6]}"  # two runs do not share what one of them removes
        self._debian_image = f"{self._prefix}/debian"
        self._engine = engine
        self._cache = cache
        self._say = say
        self._made: list[str] = []

    def provide(self, name: str) -> str:
        """The name of an image that can be used for `name`: its own, or that of a stand-in."""
        for words in (("image", "inspect", name), ("pull", name)):
            if self._engine.run(*words).returncode == 0:
                return name
        stand_in = f"{self._prefix}/{name}"
        self._say(f"{name} cannot be fetched: {stand_in} is a stand-in for it")
        self._build(stand_in)
        return stand_in

    def close(self) -> None:
        for name in reversed(self._made):
            self._engine.run("image", "rm", "--force", name)

    def _build(self, stand_in: str) -> None:
        kind = stand_in.split("/")[-1].partition(":")[0]
        self._import_debian()
        base = self._debian_image
        with tempfile.TemporaryDirectory(dir=self._cache) as temporary:
            folder = Path(temporary)
            shutil.copytree(IMAGES / kind, folder, dirs_exist_ok=True)
            if kind == "python":
                shutil.copytree(self._wheels(), folder / "wheels")
            if kind == "eventstore":
                _copy_node(folder)
                base = self.python()
            self._engine.do("build", "--quiet", "--build-arg", f"BASE={base}", "--tag", stand_in, str(folder))
        self._made.append(stand_in)

    def python(self) -> str:
        """The image that our own Dockerfile starts from."""
        (name,) = named_images((ROOT / "Dockerfile").read_text())
        stand_in = f"{self._prefix}/{name}"
        if stand_in not in self._made:
            self._build(stand_in)
        return stand_in

    def _import_debian(self) -> None:
        if self._debian_image in self._made:
            return
        self._say(f"making {self._debian_image}: {', '.join(PACKAGES)} of Debian {SUITE}")
        self._engine.do("import", str(self._debian()), f"{self._debian_image}:latest")
        self._made.append(self._debian_image)

    def _debian(self) -> Path:
        """A Debian as an archive. It is kept in the cache: it takes minutes."""
        archive = self._cache / f"debian-{_digest(SUITE, *PACKAGES)}.tar"
        if not archive.exists():
            with _new_root(self._cache) as root:
                mirror = _run("debootstrap", "--variant=minbase", SUITE, str(root))
                assert mirror.returncode == 0, mirror.stdout[-2000:]
                _install(root)
                partial = archive.with_suffix(".partial")
                packed = _run("tar", "--directory", str(root), "--create", "--file", str(partial), ".")
                assert packed.returncode == 0, packed.stdout[-2000:]
                partial.rename(archive)
        return archive

    def _wheels(self) -> Path:
        """What `pip install` needs inside the image, fetched with this machine's own configuration of pip."""
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
        project = settings["project"]
        wanted = [*settings["build-system"]["requires"], *project["dependencies"]]
        for extra in _EXTRAS:
            wanted += project["optional-dependencies"][extra]
        folder = self._cache / f"wheels-{_digest(*wanted, (ROOT / 'constraints.txt').read_text())}"
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            version = self._engine.do(
                "run", "--rm", self._debian_image, "python3", "-c", "import sys; print(sys.version[:4])"
            )
            fetched = _run(
                *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"),
                *("--python-version", version.strip(), "--dest", str(partial)),
                *("--constraint", str(ROOT / "constraints.txt"), *wanted),
            )
            assert fetched.returncode == 0, fetched.stdout[-2000:]
            partial.rename(folder)
        return folder


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _copy_node(folder: Path) -> None:
    for part in ("tests/support", "adapters", "domain"):
        shutil.copytree(
            ROOT / part, folder / "es" / part, ignore=shutil.ignore_patterns("images", "__pycache__")
        )


@contextlib.contextmanager
def _new_root(cache: Path) -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(dir=cache, prefix="root-"))
    try:
        yield root
    finally:
        for mounted in ("proc", "sys"):
            _run("umount", "--lazy", str(root / mounted))
        shutil.rmtree(root)


def _install(root: Path) -> None:
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")  # no package starts its server
    policy.chmod(0o755)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    for words in (
        ("apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES),
        ("apt-get", "clean"),
    ):
        done = _run("chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", *words)
        assert done.returncode == 0, done.stdout[-2000:]


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
        check=False,
    )
