"""How much the long campaigns do, in one place. `ES_TEST_EFFORT=long` (`make soak`) chooses the long form.

Promise: both forms run the same steps and check the same; only the sizes differ. `ES_TEST_SEED` repeats the random
choices of a run.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    examples: int
    """Examples of each hypothesis test."""
    same_examples: bool
    """Whether hypothesis draws the same examples each time."""
    bulk: int
    """Lines of a bulk that is disturbed once in each profile."""
    killed_bulk: int
    """Lines of a bulk whose workers are killed."""
    distributed_bulk: int
    """Users that are created while the broker is killed as well."""
    bulk_s: float
    """The deadline of such a bulk."""
    abandoned_requests: int
    """Requests without a caller."""
    rebuilt_rows: int
    """Rows of a read model that is rebuilt while it is used."""
    gets: int
    """Gets right after a create by one program; over a broker a third of it."""
    shell_rounds: int
    """The same by each shell loop."""
    kills: int
    """Rounds of kills at each step of an erasure."""


SHORT = Effort(
    examples=60,
    same_examples=True,
    bulk=1000,
    killed_bulk=2500,
    distributed_bulk=4000,
    bulk_s=240.0,
    abandoned_requests=1000,
    rebuilt_rows=6000,
    gets=300,
    shell_rounds=15,
    kills=1,
)
LONG = Effort(
    examples=1000,
    same_examples=False,
    bulk=10_000,
    killed_bulk=20_000,
    distributed_bulk=20_000,
    bulk_s=1200.0,
    abandoned_requests=10_000,
    rebuilt_rows=40_000,
    gets=3000,
    shell_rounds=200,
    kills=10,
)
EFFORT = {"short": SHORT, "long": LONG}[os.environ.get("ES_TEST_EFFORT", "short")]
SEED = int(os.environ.get("ES_TEST_SEED", random.randrange(1 << 32)))
