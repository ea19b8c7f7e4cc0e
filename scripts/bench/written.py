"""Renew the figures in the documents from the JSON of a run, between markers:

    <!-- bench NAME: written by `make bench`, do not edit -->
    …
    <!-- end of bench NAME -->

Text outside the markers is left as it is. A name that the run did not measure keeps its former figures, so each block
names its run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.bench.report import from_json, markdown
from scripts.bench.scaling import scaling

PAGES = ("docs/performance.md", "docs/scaling.md")
_BLOCK = re.compile(
    r"(?P<begin><!-- bench (?P<name>[\w-]+): [^\n]*-->\n).*?(?P<end><!-- end of bench (?P=name) -->)",
    re.DOTALL,
)


def blocks(run: Mapping[str, Any]) -> dict[str, str]:
    """The Markdown of each block that a run can fill, by name."""
    of_run = ", ".join(run["machine"].get(name, "") for name in ("date", "commit", "machine"))
    found = {
        name: f"{markdown(from_json(section))}\n\nRun: {of_run}" for name, section in run["sections"].items()
    }
    found["run"] = described(run)
    if "embedded" in run["figures"]:
        found["scaling"] = f"{described(run)}\n\n{scaling(run['figures']['embedded'])}"
    return found


def described(run: Mapping[str, Any]) -> str:
    lines = [f"- {name}: {value}" for name, value in run["machine"].items()]
    return "\n".join([*lines, *(f"- **{note}**" for note in run["warnings"])])


def renewed(page: str, run: Mapping[str, Any]) -> str:
    """A page with the figures of a run."""
    found = blocks(run)

    def replaced(block: re.Match[str]) -> str:
        if block["name"] not in found:
            return block[0]
        return f"{block['begin']}\n{found[block['name']]}\n\n{block['end']}"

    return _BLOCK.sub(replaced, page)


def write(root: Path, run: Mapping[str, Any]) -> list[str]:
    """Renew the pages; the paths of those that changed."""
    changed = []
    for name in PAGES:
        path = root / name
        before = path.read_text("utf-8")
        after = renewed(before, run)
        if after != before:
            path.write_text(after, "utf-8")
            changed.append(name)
    return changed
