"""A client that draws ids until a file exists: `python -m tests.faults.ids_client SEED STOP-FILE`.

It prints a line `kind first count` for each range, and `refused code 0` for each error.
"""

from __future__ import annotations

import random
import sys
from contextlib import closing
from pathlib import Path

from adapters.settings import load_settings
from adapters.wiring import open_caller
from domain.kernel.errors import EsError
from domain.kernel.messages import Body


def main(seed: int, stop: Path) -> None:
    chance, last = random.Random(seed), ""
    with closing(open_caller(load_settings())) as caller:
        while not stop.exists():
            kind = chance.choice(["single", "block", "range", "after"])
            requests = [("ids.next", body) for body in _bodies(kind, chance, last)]
            for reply in caller.pipeline("ids", requests, timeout_s=20.0):
                last = _print(kind, reply) or last


def _bodies(kind: str, chance: random.Random, last: str) -> list[Body]:
    match kind:
        case "single":
            return [{"count": 1}] * 200
        case "block":
            return [{"count": chance.randrange(2, 5000)} for _ in range(20)]
        case "range":
            return [{"count": chance.randrange(70_000, 3_000_000)}]
    return [{"count": 1, "after": last}] if last else []


def _print(kind: str, reply: Body | EsError) -> str:
    """Print a reply. Returns its last id, or an empty text after an error."""
    if isinstance(reply, EsError):
        print("refused", reply.code, 0, flush=True)
        return ""
    for item in reply["ranges"]:
        print(kind, item["first"], item["count"], flush=True)
    return str(int(item["first"]) + (item["count"] - 1) * item["step"])


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
