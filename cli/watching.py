"""Watch work that a `projections` worker does: a rebuild, a check, a switch, a comparison.

Promise: Ctrl-C leaves the work running, and work that stalls is requested again. Refusal: nothing is done here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from cli import session
from cli.progress import Progress
from domain.features import registry
from domain.kernel.errors import EsError, Kind, PartUnavailable
from domain.kernel.messages import Body

POLL_S = 0.1
STALLED_S = 5.0
"""Work that makes no progress for so long is requested again."""
FAILING_S = 10.0
"""Work that makes no progress for so long and has an error fails. A shorter outage is waited out."""
SILENT_S = 60.0
"""Work that makes no progress for so long fails also without an error."""
_DONE = {"check": "checked", "rebuild": "rebuilt", "switch": "switched", "rollback": "rolled back"}


def states_of(name: str | None) -> list[Body]:
    states: list[Body] = asked("projections.status", name)["projections"]
    return states


def asked(kind: str, name: str | None, **more: object) -> Body:
    """A reply about a projection. An unknown one may be that of a feature that cannot be used."""
    try:
        return session.ask("projections", kind, {"name": name, **more})
    except EsError as error:
        if error.kind is not Kind.NOT_FOUND or error.code != "projection-not-found":
            raise
        raise registry(session.settings().features).unknown(error) from error


@dataclass
class Work:
    """Work on a projection, and the request that begins it or attaches to it."""

    name: str
    what: str
    kind: str
    request: Body = field(default_factory=Body)

    def begin(self) -> Body:
        return asked(self.kind, self.name, **self.request)

    def wait(self, generation: int) -> Body:
        """Show progress until the generation is no longer building; its final state."""
        # A repeated rollback must not go further back: from now on it names its generation.
        self.request = {**self.request, "generation": generation}
        try:
            return self._wait(generation)
        except KeyboardInterrupt:
            session.note(
                f"the {self.what} continues in its worker; `es projections status {self.name}` shows it"
            )
            raise

    def _wait(self, generation: int) -> Body:
        progress = Progress()
        position, moved_s, requested_s = 0, 0.0, 0.0
        error: Body | None = None
        while True:
            state = self._state(generation)
            elapsed_s = progress.elapsed_s
            if state["state"] != "building":
                rate = f"{state['events']} events, {state['events'] / elapsed_s:.0f}/s"
                progress.close(f"{_DONE[self.what]} {self.name}: {rate}; generation {generation}")
                return state
            if state["position"] != position:
                position, moved_s, requested_s, error = state["position"], elapsed_s, elapsed_s, None
            # Another worker than the one that rebuilds may have replied: it knows no error.
            error = state.get("last_error") or error
            self._need_hope(error, elapsed_s - moved_s)
            if elapsed_s - requested_s > STALLED_S:
                # Its worker may have ended. The worker that gets this request resumes the work.
                session.ask("projections", self.kind, {"name": self.name, **self.request})
                requested_s = elapsed_s
            _show_progress(progress, state, error)
            time.sleep(POLL_S)

    def _state(self, generation: int) -> Body:
        """The state of the generation. Raises PartUnavailable if the work was cancelled."""
        state = next((each for each in states_of(self.name) if each["generation"] == generation), None)
        if state is None:
            hint = "It was cancelled, or another one replaced it."
            raise PartUnavailable(f"the {self.what}", "its generation is missing", hint)
        switches = self.kind == "projections.switch" and state["state"] == "retired"
        if switches or state.get("why") == "cancelled":
            self._need_no_refusal(generation)
            hint = "Queries read the current generation as before. Begin it again if you need it."
            raise PartUnavailable(f"the {self.what}", "it was cancelled", hint)
        return state

    def _need_no_refusal(self, generation: int) -> None:
        """Raise the error for which a worker ended the work, if it stored one."""
        try:
            asked("projections.report", self.name, generation=generation)
        except EsError as error:
            if error.code != "report-not-found":
                raise

    def _need_hope(self, error: Body | None, stalled_s: float) -> None:
        """Raise PartUnavailable after a long time without progress."""
        if stalled_s <= (SILENT_S if error is None else FAILING_S):
            return
        why = f"it makes no progress: {error['message']}" if error else f"no progress for {SILENT_S:.0f} s"
        hint = (
            f"Fix the cause (`es logs projections`); the {self.what} then continues. "
            f"`es projections status {self.name}` shows it."
        )
        raise PartUnavailable(f"the {self.what}", why, hint)


def compared(name: str, first: int | None, second: int | None) -> Body:
    """The report of a comparison, which is begun here."""
    begun = asked("projections.diff", name, first=first, second=second)
    pair = dict(zip(("first", "second"), begun["generations"], strict=True))
    progress = Progress()
    while True:
        found = asked("projections.report", name, **pair)
        if not found.get("running"):
            return found
        progress.show(lambda: f"comparing {name}: {progress.elapsed_s:.0f} s")
        time.sleep(POLL_S)


def _show_progress(progress: Progress, state: Body, error: Body | None) -> None:
    share = state["position"] / max(state["head"], 1)

    def text() -> str:
        shown = f"{share:6.1%}  {state['events']} events  {state['events'] / progress.elapsed_s:.0f}/s"
        if error:
            return f"{shown}  waits: {error['message']}"
        return f"{shown}  {progress.elapsed_s * (1 - share) / share:.0f} s left" if share else shown

    progress.show(text)
