"""After an erasure is stored, `es gdpr erase` says so, also when its worker does not answer or fails."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cli import gdpr, session
from domain.kernel.errors import AnsweredError, Damaged, EsError, Kind, PartUnavailable
from domain.kernel.messages import Body

SILENT = PartUnavailable(
    "the erasures worker", "no reply within 6 s, so the outcome is unknown", "See `es logs`."
)
DOWN = AnsweredError("unavailable", Kind.UNAVAILABLE, "PostgreSQL is unavailable: refused", "Start it.")
OTHERWISE = AnsweredError(
    "runs-otherwise", Kind.REFUSED, "the workers run, but not as asked", "Run `es down`."
)
BROKEN = Damaged("vault", "a page", "Restore it.")
DECIDED = {"erasure": "decided", "reason": ""}
DESTROYED = {"erasure": "key-destroyed", "reason": "RabbitMQ"}
COMPLETED = {"erasure": "completed", "reason": ""}


class Scripted:
    """A test double of a connection: it gives one answer after the other."""

    def __init__(self, answers: Sequence[Body | EsError]) -> None:
        self._answers = [*answers]
        self.asked: list[str] = []

    def ask(self, role: str, kind: str, body: Body, *, timeout_s: float) -> Body:
        assert (role, body) == ("erasures", {"user_id": "7"})
        self.asked.append(kind)
        answer = self._answers.pop(0)
        if isinstance(answer, EsError):
            raise answer
        return answer

    def close(self) -> None: ...


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gdpr, "_POLL_S", 0.0)


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize(
    ("answers", "code", "kind", "said"),
    [
        ([SILENT], "unconfirmed", Kind.UNAVAILABLE, "it is stored, but no worker confirmed"),
        ([OTHERWISE], "unconfirmed", Kind.UNAVAILABLE, "it is stored, but no worker confirmed"),
        ([BROKEN], "unconfirmed", Kind.DAMAGED, "it is stored, but no worker confirmed"),
        ([DECIDED, DOWN], "decided", Kind.UNAVAILABLE, "the key is not destroyed yet"),
        ([DESTROYED, SILENT], "key-destroyed", Kind.UNAVAILABLE, "the key is destroyed"),
        ([COMPLETED, SILENT], "key-destroyed", Kind.UNAVAILABLE, "the key is destroyed"),
    ],
)
def test_an_error_after_the_erasure_is_stored_tells_the_last_known_state(
    answers: Sequence[Body | EsError], code: str, kind: Kind, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause = answers[-1]
    assert isinstance(cause, EsError)
    monkeypatch.setattr(session, "caller", lambda: Scripted(answers))

    with pytest.raises(gdpr.ErasureOwed) as owed:
        gdpr._wait("7")

    assert (owed.value.code, owed.value.kind, owed.value.hint) == (code, kind, cause.hint)
    assert said in str(owed.value)
    assert "outcome is unknown" not in str(owed.value)


@pytest.mark.usefixtures("no_pause")
def test_a_completed_erasure_is_resumed_once_for_later_dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Scripted([COMPLETED, {}, COMPLETED])
    monkeypatch.setattr(session, "caller", lambda: connection)

    assert gdpr._wait("7") == "completed"
    assert connection.asked == ["erasures.status", "erasures.resume", "erasures.status"]


@pytest.mark.usefixtures("no_pause")
def test_what_is_owed_for_long_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gdpr, "_WAIT_S", -1.0)
    monkeypatch.setattr(session, "caller", lambda: Scripted([DESTROYED]))

    with pytest.raises(gdpr.ErasureOwed, match="RabbitMQ") as owed:
        gdpr._wait("7")

    assert "`erasures` goes on without you" in owed.value.hint
