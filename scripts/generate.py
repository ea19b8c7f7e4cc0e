"""Write every generated text: docs/cli.md and the role services of the compose files.

`python -m scripts.generate` writes them; with `--check` nothing is written, and exit code 1 means that one is out of
date.
"""

from __future__ import annotations

import sys
from pathlib import Path

from domain.features import registry
from scripts.cli_reference import reference
from scripts.compose import FORMS, with_roles

ROOT = Path(__file__).parent.parent


def generated() -> dict[str, str]:
    """The content that each generated file has to have, by its path."""
    roles = [role.name for role in registry().roles if not role.needs_process]
    files = {name: with_roles((ROOT / name).read_text("utf-8"), form, roles) for name, form in FORMS.items()}
    return {"docs/cli.md": reference(), **files}


def main(arguments: list[str]) -> int:
    outdated = {
        name: text
        for name, text in generated().items()
        if not (ROOT / name).exists() or (ROOT / name).read_text("utf-8") != text
    }
    for name, text in outdated.items():
        if "--check" in arguments:
            print(f"{name} is out of date: run `make docs`", file=sys.stderr)
        else:
            (ROOT / name).write_text(text, "utf-8")
            print(f"wrote {name}")
    return 1 if outdated and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
