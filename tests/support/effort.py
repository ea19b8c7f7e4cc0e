"""How much the long campaigns do, in one place. `ES_TEST_EFFORT=long` (`make soak`) chooses the long form.

Promise: both forms run the same steps and check the same; only the sizes differ. `ES_TEST_SEED` repeats the random
choices of a run.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

SEED = int(os.environ.get("ES_TEST_SEED", random.randrange(1 << 32)))
IS_LONG = {"short": False, "long": True}[os.environ.get("ES_TEST_EFFORT", "short")]


def sized(short: int, long: int) -> int:
    return long if IS_LONG else short


def some(items: Sequence[T], number: int) -> Sequence[T]:
    """All items; in the short form a sixth of them, another sixth for each number."""
    return items if IS_LONG else items[number % 6 :: 6]


EXAMPLES = sized(60, 1000)  # of each hypothesis test
BULK = sized(1000, 10_000)  # lines of a bulk that is disturbed once in each profile
KILLED_BULK = sized(1500, 20_000)  # lines of a bulk whose workers are killed
DISTRIBUTED_BULK = sized(1000, 20_000)  # users that are created while the broker is killed as well
BULK_S = float(sized(240, 1200))  # the deadline of such a bulk
CONTAINER_BULK = sized(400, 800)  # users that are created while one container is killed
ABANDONED_REQUESTS = sized(1000, 10_000)  # without a caller
REBUILT_ROWS = sized(6000, 40_000)  # of a read model that is rebuilt while it is used
GETS = sized(300, 3000)  # right after their creates, by one program; over a broker a third of it
SHELL_ROUNDS = sized(15, 200)  # the same by a shell loop
ERASURE_KILLS = sized(1, 10)  # at each step of an erasure
TRANSFERS = sized(60, 1000)  # between wallets whose workers are killed
MONEY = sized(100, 500)  # in each wallet before them
STRIKES = sized(6, 50)  # kills of a worker during the transfers
SUPERVISOR_STRIKES = sized(1, 5)  # kills of all workers and the supervisor
IDS_S = sized(5, 120)  # seconds in which clients draw ids while workers are killed
