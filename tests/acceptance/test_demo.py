"""`make demo` runs to its end, and decodes an id that it has shown."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.runs import ES
from tests.support.system import System
from tests.support.waiting import DEADLINE_S


@pytest.mark.over("embedded", because="the demo uses its own home, without servers")
def test_the_demo_decodes_an_id_that_it_has_shown(system: System) -> None:
    done = subprocess.run(
        ["sh", ROOT / "scripts" / "demo.sh"],
        env={
            **system.environment,
            "PATH": f"{Path(ES).parent}:{os.environ['PATH']}",
            "TMPDIR": str(system.root),
        },
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * 2,
    )

    assert done.returncode == 0, done
    shown, decoded = re.search(r"next -n 3\n((?:\d+\n){3})\$ es ids decode (\d+)\n\2\t", done.stdout).groups()  # type: ignore[union-attr]
    assert decoded in shown.split()
    assert "erased" in done.stdout
    assert not list(system.root.glob("es-demo*")), "its home is removed"
