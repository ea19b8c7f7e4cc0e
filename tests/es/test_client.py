"""The client over a scripted connection: what it sends, what it returns, and which errors it raises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import es
from adapters.settings import load_settings
from domain.kernel.errors import AnsweredError, EsError, Kind, PartUnavailable
from domain.kernel.messages import Body, Question
from domain.users.commands import CompleteErasure, RenameUser
from tests.support.shelves import CloseShelf, PutBook

ANSWER = {"shelf_id": "7", "version": 2, "position": 12}


class Scripted:
    """Replies to a request with what `reply` returns, and notes it."""

    def __init__(self, reply: Callable[[str, Body], Body | EsError]) -> None:
        self.reply = reply
        self.asked: list[tuple[str, str, Body]] = []
        self.timeouts: list[float] = []
        self.closed = 0

    def ask(self, role: str, kind: str, body: Mapping[str, Any], *, timeout_s: float) -> Body:
        [found] = self.pipeline(role, [(kind, body)], timeout_s=timeout_s)
        if isinstance(found, EsError):
            raise found
        return found

    def pipeline(
        self, role: str, requests: Iterable[Question], *, timeout_s: float
    ) -> Iterator[Body | EsError]:
        self.timeouts.append(timeout_s)
        for request in [*requests]:  # all are in flight before the first reply
            assert not isinstance(request, EsError)
            kind, body = request
            self.asked.append((role, kind, dict(body)))
            yield self.reply(kind, dict(body))

    def exchange(
        self, role: str, requests: Iterable[Question], *, timeout_s: float
    ) -> Iterator[tuple[int, Body | EsError]]:
        yield from reversed([*enumerate(self.pipeline(role, requests, timeout_s=timeout_s))])

    def close(self) -> None:
        self.closed += 1


def answering(kind: str, body: Body) -> Body:
    return {"command_id": body["command_id"], **ANSWER}


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., tuple[es.Client, Scripted]]:
    def make(
        reply: Callable[[str, Body], Body | EsError] = answering, **options: Any
    ) -> tuple[es.Client, Scripted]:
        environment = {"ES_HOME": str(tmp_path), "ES_FEATURES": "tests.support.shelves"}
        client = es.Client(settings=load_settings(environment=environment), **options)
        client._connection = scripted = Scripted(reply)  # type: ignore[assignment]
        return client, scripted

    return make


Made = Callable[..., tuple[es.Client, Scripted]]

# --- commands --------------------------------------------------------------------------------


def test_a_command_goes_to_the_role_of_its_feature_and_returns_its_answer(made: Made) -> None:
    client, scripted = made(actor="shop:1", timeout_s=3.0)
    command_id = uuid4()

    answer = client.send(PutBook(7, "North"), command_id)

    assert answer == es.Answer(str(command_id), 7, 2, "12")
    body = {"command_id": str(command_id), "actor": "shop:1", "input": {"shelf_id": "7", "title": "North"}}
    assert scripted.asked == [("shelves", "shelves.put-book", body)]
    assert scripted.timeouts == [3.0]


def test_a_personal_value_travels_to_its_worker(made: Made) -> None:
    client, scripted = made()

    client.send(RenameUser(7, es.Personal("Ada")))
    client.send(("users.rename", {"user_id": "7", "name": "Ada"}), timeout_s=1.5)

    assert [(role, body["input"]) for role, _, body in scripted.asked] == [
        ("users", {"user_id": "7", "name": "Ada"})
    ] * 2
    assert scripted.timeouts == [8.0, 1.5]


def test_many_commands_keep_their_order_and_an_error_its_place(made: Made) -> None:
    def reply(kind: str, body: Body) -> Body | EsError:
        if body["input"].get("title") == "refused":
            return AnsweredError("shelf-full", Kind.REFUSED, "the shelf holds 3 books", "Put it elsewhere.")
        return answering(kind, body)

    client, scripted = made(reply)
    commands = [PutBook(7, title) for title in ("one", "refused", "three", "four")]

    first, second, third, fourth = client.send_many(commands)

    assert isinstance(first, es.Answer)
    assert isinstance(second, es.Refused)
    assert (second.code, second.message, second.hint) == (
        "shelf-full",
        "the shelf holds 3 books",
        "Put it elsewhere.",
    )
    assert isinstance(third, es.Answer)
    assert isinstance(fourth, es.Answer)
    ids = [body["command_id"] for _, _, body in scripted.asked]
    assert [each.command_id for each in (first, second, third, fourth)] == ids
    assert len(set(ids)) == 4


def test_no_commands_need_no_connection(made: Made) -> None:
    client, scripted = made()

    assert list(client.send_many([])) == []
    assert scripted.timeouts == []


@pytest.mark.parametrize(
    ("command", "said"),
    [(CompleteErasure(7, 1), "has no request"), (("users.delete", {"user_id": "7"}), "is not a UUID")],
    ids=["no request", "command id"],
)
def test_what_cannot_be_sent_is_invalid(made: Made, command: Any, said: str) -> None:
    client, scripted = made()

    with pytest.raises(es.Invalid, match=said):
        client.send(command, "no id")
    assert scripted.asked == []


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "class_"),
    [
        (Kind.REFUSED, es.Refused),
        (Kind.INVALID, es.Invalid),
        (Kind.NOT_FOUND, es.NotFound),
        (Kind.UNAVAILABLE, es.Unavailable),
        (Kind.DAMAGED, es.Damaged),
    ],
)
def test_each_kind_of_error_has_its_class(made: Made, kind: Kind, class_: type[es.EsError]) -> None:
    client, _ = made(lambda *_: AnsweredError("some-code", kind, "a message", "A hint."))
    command_id = str(uuid4())

    with pytest.raises(class_) as raised:
        client.send(CloseShelf(7), command_id)

    error: Any = raised.value
    assert (error.code, error.kind, error.message, error.hint) == ("some-code", kind, "a message", "A hint.")
    assert error.command_id == command_id


def test_an_outage_is_an_error_of_a_class_of_its_own_and_names_a_retry(made: Made) -> None:
    client, _ = made(lambda *_: PartUnavailable("the shelves worker", "it is not running"))

    with pytest.raises(es.Unavailable) as raised:
        client.send(CloseShelf(7))
    assert raised.value.command_id is not None
    with pytest.raises(es.Unavailable):
        client.get("shelves", 7)


def test_a_wrong_setting_is_invalid() -> None:
    with pytest.raises(es.Invalid, match="ES_BROKER"):
        es.Client(broker="http://localhost")


# --- queries ---------------------------------------------------------------------------------


def test_a_row_is_read_with_what_was_just_written(made: Made) -> None:
    client, scripted = made(lambda *_: {"shelf_id": "7"})

    assert client.get("shelves", 7, after="12") == {"shelf_id": "7"}
    client.get("shelves.labels", "maps", fresh=True)
    client.get("users", 9)

    assert [(kind, body) for _, kind, body in scripted.asked] == [
        ("shelves.get", {"key": "7", "after_position": 12, "fresh": False}),
        ("shelves.labels.get", {"key": "maps", "fresh": True}),
        ("users.get", {"user_id": "9", "fresh": False}),
    ]


@pytest.mark.parametrize("token", ["", "-1", "twelve", "１２"])
def test_a_position_that_no_answer_has_is_invalid(made: Made, token: str) -> None:
    client, scripted = made()

    with pytest.raises(es.Invalid, match="after is no position"):
        client.get("shelves", 7, after=token)
    assert scripted.asked == []


def test_rows_are_listed_page_by_page_up_to_the_limit(made: Made) -> None:
    def page(kind: str, body: Body) -> Body:
        start = int(body["after"] or 0)
        rows = [{"key": str(number)} for number in range(start + 1, start + min(body["limit"], 2) + 1)]
        return {"rows": rows, "next": {"after": rows[-1]["key"]} if start < 8 else None}

    client, scripted = made(page)

    assert [row["key"] for row in client.list("shelves", limit=5, after="3")] == ["1", "2", "3", "4", "5"]
    assert [(body["after"], body["limit"]) for _, _, body in scripted.asked] == [
        (None, 5),
        ("2", 3),
        ("4", 1),
    ]
    assert {body["after_position"] for _, _, body in scripted.asked} == {3}
    assert len(list(client.list("shelves", after_key=2))) == 8


def test_many_questions_are_answered_as_the_replies_arrive_with_their_numbers(made: Made) -> None:
    def reply(kind: str, body: Body) -> Body | EsError:
        return PartUnavailable("the shelves worker", "busy") if body["key"] == "8" else dict(body)

    client, scripted = made(reply)
    questions = (("shelves.get", {"key": key}) for key in ("7", "8", "9"))

    arrived = dict(client.ask_many(questions, role="projections", timeout_s=2.0))

    assert list(arrived) == [2, 1, 0], "the order of arrival"
    assert (arrived[0], arrived[2]) == ({"key": "7"}, {"key": "9"})
    assert isinstance(arrived[1], es.Unavailable)
    assert {role for role, _, _ in scripted.asked} == {"projections"}
    assert scripted.timeouts == [2.0]


# --- threads and the end ---------------------------------------------------------------------


def test_a_second_thread_is_refused_while_the_client_is_in_use(made: Made) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slowly(kind: str, body: Body) -> Body:
        entered.set()
        assert go_on.wait(10)
        return answering(kind, body)

    client, _ = made(slowly)
    first = threading.Thread(target=client.send, args=(CloseShelf(7),))
    first.start()
    assert entered.wait(10)

    with pytest.raises(RuntimeError, match="give each thread a client"):
        client.get("shelves", 7)
    go_on.set()
    first.join(10)
    client.send(CloseShelf(7))


def test_an_unfinished_iterator_keeps_the_client_until_it_is_closed(made: Made) -> None:
    client, _ = made()
    answers = client.send_many([CloseShelf(7), CloseShelf(8)])
    next(answers)

    with pytest.raises(RuntimeError, match="send_many"):
        client.send(CloseShelf(9))
    answers.close()  # type: ignore[attr-defined]
    client.send(CloseShelf(9))


def test_a_context_manager_closes_the_connection(made: Made) -> None:
    client, scripted = made()

    with client as entered:
        assert entered is client
        assert scripted.closed == 0
    assert scripted.closed == 1
