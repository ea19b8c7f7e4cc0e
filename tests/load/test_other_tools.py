"""The examples of the decision about load runs work: `es` is driven by other tools."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT
from tests.support.runs import ES
from tests.support.system import System
from tests.support.waiting import DEADLINE_S

PAGE = (ROOT / "docs" / "adr" / "0021-load-runs.md").read_text("utf-8")


def _block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


def test_a_user_for_locust_registers_and_reads_the_account(running: System) -> None:
    names: dict[str, Any] = {}
    exec(f"import es\n{_block('python')}", names)
    account = names["Account"](str(running.home), 7)

    assert account.register_and_read()["email"] == "load-7@example.com"
    account.client.close()


def test_any_tool_writes_lines_to_a_process(running: System, tmp_path: Path) -> None:
    (tmp_path / "generate").write_text(
        '#!/bin/sh\nprintf \'%s\\n\' \'{"email":"a@example.com","name":"A"}\'\n'
    )
    (tmp_path / "generate").chmod(0o755)
    path = os.pathsep.join([str(tmp_path), str(Path(ES).parent), running.environment["PATH"]])
    subprocess.run(
        ["sh", "-c", _block("sh")],
        cwd=tmp_path,
        env={**running.environment, "PATH": path},
        check=True,
        timeout=DEADLINE_S,
    )

    assert '"command_id"' in (tmp_path / "answers.ndjson").read_text()
    assert len(running.registrations()) == 1
