"""The errors of work on generations of projections."""

from __future__ import annotations

from collections.abc import Iterable

from domain.kernel.errors import EsError, Kind, PartUnavailable, Refusal
from domain.kernel.ports.read_model import ADOPTED, Generation, Why


class NoSuchProjection(EsError):
    code = "projection-not-found"
    kind = Kind.NOT_FOUND
    hint = "List the names with `es projections list`."

    def __str__(self) -> str:
        return "there is no such projection"


class NoSuchReport(EsError):
    code = "report-not-found"
    kind = Kind.NOT_FOUND
    hint = "Compare again: `es projections rebuild NAME --check`."

    def __str__(self) -> str:
        return "no comparison of these generations is stored"


class ProjectionBusy(Refusal):
    """Rule: one rebuild, check, switch or rollback of a projection runs at once."""

    running: Generation
    code = "projection-busy"

    @property
    def hint(self) -> str:  # type: ignore[override]
        name = self.running.projection
        return (
            f"Wait until `es projections status {name}` no longer shows it as building, or end it with "
            f"`es projections cancel {name}`."
        )

    def __str__(self) -> str:
        why = self.running.why.value or Why.REBUILD.value
        return f"a {why} of {self.running.projection} runs, as generation {self.running.number}"


class NoSuchGeneration(EsError):
    """A generation was removed, or never existed."""

    projection: str
    number: int
    code = "generation-not-found"
    kind = Kind.NOT_FOUND

    @property
    def hint(self) -> str:  # type: ignore[override]
        return f"`es projections status {self.projection}` lists the stored ones."

    def __str__(self) -> str:
        return f"{self.projection} has no generation {self.number}"


class NothingStored(EsError):
    """No generation is stored beside the current one that could be chosen."""

    projection: str
    wanted: str
    code = "nothing-stored"
    kind = Kind.NOT_FOUND

    @property
    def hint(self) -> str:  # type: ignore[override]
        return f"Build one: `es projections rebuild {self.projection} --check`."

    def __str__(self) -> str:
        return f"{self.projection} has no {self.wanted} generation"


class NothingRuns(EsError):
    """There is no rebuild, check, switch or rollback to cancel."""

    projection: str
    code = "nothing-runs"
    kind = Kind.NOT_FOUND

    @property
    def hint(self) -> str:  # type: ignore[override]
        return f"`es projections status {self.projection}` shows its generations."

    def __str__(self) -> str:
        return f"nothing runs on {self.projection}"


class BuiltByOtherCode(Refusal):
    """Rule: only the code that built a generation fills it further. Otherwise its rows would be a mixture."""

    generation: Generation
    code_now: str
    code = "built-by-other-code"

    @property
    def hint(self) -> str:  # type: ignore[override]
        name = self.generation.projection
        return (
            "Start a projections worker of the version that built it, and repeat; or build one with the present code: "
            f"`es projections rebuild {name} --check`."
        )

    def __str__(self) -> str:
        built = self.generation
        by = " and then by ".join(code or "an earlier version of es" for code in built.code.split(ADOPTED))
        return f"generation {built.number} of {built.projection} was built by {by}, and this worker has {self.code_now}"


class NoWorkerWithCode(PartUnavailable):
    """No worker with the code of a request took up the work."""

    def __init__(self, projection: str, code: str) -> None:
        super().__init__(
            f"the {projection} projection",
            f"no projections worker has the code {code} of this command",
            "Start a worker of this version, or restart the workers with `es down` and `es up`, then retry.",
        )


class OtherColumns(PartUnavailable):
    """Present code cannot fill a generation, because it lacks columns. Its rows are shown without them."""

    def __init__(self, generation: Generation, columns: Iterable[str]) -> None:
        super().__init__(
            f"the {generation.projection} projection",
            f"generation {generation.number} lacks the columns {', '.join(sorted(columns))} of the present code",
            f"`es projections rebuild {generation.projection} --check`, then `es projections switch "
            f"{generation.projection}`; or start a worker of the version that built it.",
        )


class MoreParked(Refusal):
    """Rule: a switch or rollback shows no older rows than before, so it leaves no more events out."""

    generation: Generation
    current: int
    events: int
    code = "more-parked"

    @property
    def hint(self) -> str:  # type: ignore[override]
        name = self.generation.projection
        return f"Fix the projection and build another one: `es projections rebuild {name} --check`."

    def __str__(self) -> str:
        built = self.generation
        return (
            f"generation {built.number} of {built.projection} leaves out {self.events} events as parked that generation "
            f"{self.current} has, so its rows are older"
        )


class GenerationOfOtherHistory(Refusal):
    """Rule: rows of events that the store does not have are not shown."""

    generation: Generation
    code = "generation-of-other-history"

    @property
    def hint(self) -> str:  # type: ignore[override]
        return f"Build another one: `es projections rebuild {self.generation.projection} --check`."

    def __str__(self) -> str:
        built = self.generation
        return f"generation {built.number} of {built.projection} is of another history than the event store"
