"""A client of `ids` workers that draws without end: `python -m tests.faults.ids_client SEED STOP-FILE`.

Each answered range is a line `kind first count` on standard output, each refusal `refused code 0`.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from adapters.settings import load_settings
from adapters.wiring import open_caller
from domain.kernel.errors import EsError
from domain.kernel.messages import Body
from domain.kernel.ports.transport import Caller

PIPELINED = 200


def main(seed: int, stop: Path) -> None:
    chance = random.Random(seed)
    caller = open_caller(load_settings())
    last = ""
    while not stop.exists():
        kind = chance.choice(["single", "block", "range", "after"])
        for answer in _draw(caller, chance, kind, last):
            last = _say(kind, answer) or last
    caller.close()


def _draw(caller: Caller, chance: random.Random, kind: str, last: str) -> list[Body | EsError]:
    match kind:
        case "single":
            bodies = [{"count": 1}] * PIPELINED
        case "block":
            bodies = [{"count": chance.randrange(2, 5000)} for _ in range(20)]
        case "range":
            bodies = [{"count": chance.randrange(70_000, 3_000_000)}]
        case _:
            bodies = [{"count": 1, "after": last}] if last else []
    return list(caller.pipeline("ids", [("ids.next", body) for body in bodies], timeout_s=20.0))


def _say(kind: str, answer: Body | EsError) -> str:
    """Print what was answered; the last id of it."""
    if isinstance(answer, EsError):
        print("refused", answer.code, 0, flush=True)
        return ""
    last = ""
    for item in answer["ranges"]:
        print(kind, item["first"], item["count"])
        last = str(int(item["first"]) + (item["count"] - 1) * item["step"])
    sys.stdout.flush()
    return last


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
