"""Compare two stored generations: the one that is behind catches up with the other first.

Promise: readers notice nothing, and an interrupted comparison is made again. Refusal: present code does not fill what
other code built, and no generation is filled with events of another history.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from domain.kernel.errors import EsError, PartUnavailable
from domain.kernel.ports.read_model import Generation, GenerationState, ReadModel, Report
from domain.kernel.projection import Projection
from workers.projections.check import level, save
from workers.projections.comparison import Comparison, Stopped
from workers.projections.errors import BuiltByOtherCode, GenerationOfOtherHistory
from workers.projections.filling import Filler, Filling, is_of_other_history
from workers.projections.next_batch import pause

_LEVEL_PAUSE_S = 0.1


def asked(read_model: ReadModel, projection: Projection) -> list[Report]:
    """The comparisons that are asked for and have no result yet."""
    return [each for each in read_model.reports(projection) if not each.text]


def compare_asked(parts: Filling, stopped: Callable[[], bool]) -> None:
    """Make the comparisons that are asked for, one by one, and store their reports."""
    for report in asked(parts.read_model, parts.projection):
        try:
            _compare(parts, report, stopped)
        except Stopped:
            return
        except PartUnavailable:
            if _pair(parts, report):
                raise
            continue  # one was removed meanwhile, and the report with it
        except (BuiltByOtherCode, GenerationOfOtherHistory) as error:
            save_error(parts, report, error)


def _pair(parts: Filling, report: Report) -> tuple[Generation, Generation] | None:
    """The generations to be compared, as they are now. None if one was removed."""
    stored = {each.number: each for each in parts.read_model.generations(parts.projection)}
    if report.first not in stored or report.second not in stored:
        return None
    return stored[report.first], stored[report.second]


def _compare(parts: Filling, report: Report, stopped: Callable[[], bool]) -> None:
    def ended() -> bool:
        # A rebuild does not wait for a comparison, which is made again after it.
        return stopped() or building(parts.read_model, parts.projection) is not None

    while not ended():
        pair = _pair(parts, report)
        if pair is None:
            return
        leader, follower = in_order(*pair)  # each time: a switch may have changed which one is current
        need_same_history(parts, follower)
        need_fillable(parts.code, leader, follower)
        found = level(parts, leader, Filler(parts, follower), ended)
        if found is not None:
            _save(parts, found, report.first)
            return
        pause(_LEVEL_PAUSE_S, stopped)
    raise Stopped()


def building(read_model: ReadModel, projection: Projection) -> Generation | None:
    """The unfinished generation of a projection."""
    stored = read_model.generations(projection)
    return next((each for each in stored if each.state is GenerationState.BUILDING), None)


def in_order(first: Generation, second: Generation) -> tuple[Generation, Generation]:
    """The generation that leads, and the one that catches up with it: no one but its projector fills the current one."""
    if first.state is GenerationState.CURRENT or second.state is GenerationState.CURRENT:
        return (first, second) if first.state is GenerationState.CURRENT else (second, first)
    return (first, second) if first.checkpoint >= second.checkpoint else (second, first)


def need_fillable(code: str, leader: Generation, follower: Generation) -> None:
    """Raise BuiltByOtherCode if the follower would have to be filled by other code than that which built it."""
    is_level = leader.checkpoint == follower.checkpoint and leader.state is not GenerationState.CURRENT
    if follower.code != code and not is_level:
        raise BuiltByOtherCode(follower, code)


def need_same_history(parts: Filling, generation: Generation) -> None:
    if is_of_other_history(generation, parts.store):
        raise GenerationOfOtherHistory(generation)


def _save(parts: Filling, found: Comparison, first: int) -> None:
    ordered = found if found.numbers[0] == first else found.turned()
    save(parts.read_model, parts.projection, ordered, parts.now_us())
    parts.log.info("compared", projection=parts.projection.name, result=found.result)


def save_error(parts: Filling, report: Report, error: EsError) -> None:
    """Store why there is no result, for the caller that asks for it."""
    text = json.dumps({"error": error.to_wire()})
    parts.read_model.save_report(parts.projection, Report(report.first, report.second, parts.now_us(), text))
