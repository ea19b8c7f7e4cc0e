"""A client of the workers, for programs: send commands, read rows, and read what was just written.

    with es.Client(home="/srv/es") as client:
        opened = client.send(OpenWallet(wallet_id=7, currency="EUR"))
        row = client.get("wallets", opened.id, after=opened.position)

Promise: an error is of a class that says what to do with it, and names the command id with which a retry is safe.
Refusal: one thread at a time uses a client; a second one gets a RuntimeError instead of a mixed-up reply.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, repeat
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from domain.kernel.commands import Command, inputs_of
from domain.kernel.errors import AnsweredError, EsError, InvalidInput, Kind
from domain.kernel.messages import Body, Question
from domain.kernel.personal import Personal
from es.connection import TIMEOUT_S, Connection, chosen_command_id, command_body

if TYPE_CHECKING:
    from adapters.settings import Settings

_ENVELOPE = ("command_id", "version", "position")
_ROWS = ("rows", "users")

Sendable = Command | tuple[str, Mapping[str, Any]]
"""A command, or the kind of its request and its input as JSON: `("users.create", {"email": …, "name": …})`."""


class Refused(AnsweredError):
    """A rule does not allow the command. A retry changes nothing until the state changes."""


class Invalid(AnsweredError):
    """The request is wrong. Correct it."""


class NotFound(AnsweredError):
    """The requested thing does not exist."""


class Unavailable(AnsweredError):
    """A part is unavailable, or the outcome is unknown. A retry with the same command id is safe."""


class Damaged(AnsweredError):
    """Stored data is not what the program wrote. An operator must look at it."""


Failure = Refused | Invalid | NotFound | Unavailable | Damaged
"""What a client raises: each has `code`, `message`, `hint` and the `command_id` of a failed command."""
CLASSES: Mapping[Kind, type[Failure]] = {
    Kind.REFUSED: Refused,
    Kind.INVALID: Invalid,
    Kind.NOT_FOUND: NotFound,
    Kind.UNAVAILABLE: Unavailable,
    Kind.DAMAGED: Damaged,
}


def new_command_id() -> str:
    """A new command id, for a command that its sender may have to repeat. Ids of one program are ordered in time."""
    return chosen_command_id(None, field="command_id")


class Answer(NamedTuple):
    """What a command did, also if it was sent before. `position` is opaque text, for `after` of a later read.

    `id` is that of the instance, and `version` that of its stream after the command.
    """

    command_id: str
    id: int
    version: int
    position: str


class Client:
    """A connection to the workers of a system, opened for the first request.

    It is used by one thread at a time, and an iterator of `send_many` or `ask_many` uses it until its end. Give each thread a client
    of its own. It starts no worker.
    """

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        *,
        broker: str | None = None,
        settings: Settings | None = None,
        actor: str = "client",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Connect to the workers of a home, or over a broker (`amqp://…`); else as the settings say (`es config show`).

        `actor` names the sender in stored events, without personal data. `timeout_s` is for each request, unless a call
        says otherwise. Raises Invalid for a wrong setting.
        """
        with _typed(None):
            if settings is None:
                from adapters.settings import load_settings

                given = {"ES_BROKER": broker} if broker is not None else {}
                flag = None if home is None else os.fspath(home)
                settings = load_settings(home_flag=flag, environment={**os.environ, **given})
        self._settings = settings
        self._connection = Connection(settings)
        self._actor = actor
        self._timeout_s = timeout_s
        self._in_use = Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The next request opens another."""
        self._connection.close()

    # --- commands ----------------------------------------------------------------------------

    def send(
        self,
        command: Sendable,
        command_id: UUID | str | None = None,
        *,
        role: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Send a command and return its answer. Repeated with its command id, it has one effect and the same answer.

        The role is that of the command's feature, unless it is given. Raises Refused, Invalid, NotFound, Unavailable or
        Damaged, with the command id.
        """
        with _typed(None):
            kind, fields = _request(command)
            chosen = chosen_command_id(command_id, field="command_id")
        with self._used(), _typed(chosen):
            body = command_body(chosen, self._actor, fields)
            reply = self._connection.ask(
                role or self._role_of(kind), kind, body, timeout_s=self._limit(timeout_s)
            )
            return _answer(reply)

    def send_many(
        self,
        commands: Iterable[Sendable],
        command_ids: Iterable[UUID | str] | None = None,
        *,
        role: str | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Answer | Failure]:
        """Send commands of one role with up to 512 in flight, and yield an answer or an error for each, in order.

        A caller that wants to repeat what was not answered gives each its command id: `new_command_id()`.

        An error is yielded, not raised: it carries its command id, and the others go on. The commands are read in
        another thread. An iterator that is dropped leaves the outcome of those in flight unknown.
        """
        waiting: deque[str] = deque()
        ids = repeat(None) if command_ids is None else iter(command_ids)

        def question(kind: str, fields: Mapping[str, Any]) -> Question:
            waiting.append(chosen_command_id(next(ids, None), field="command_id"))
            return kind, command_body(waiting[-1], self._actor, fields)

        with self._used(), _typed(None):
            requests = iter(map(_request, commands))
            first = next(requests, None)
            if first is None:
                return
            questions = (question(*each) for each in chain([first], requests))
            target = role or self._role_of(first[0])
            for reply in self._connection.pipeline(target, questions, timeout_s=self._limit(timeout_s)):
                command_id = waiting.popleft()
                yield _of_kind(reply, command_id) if isinstance(reply, EsError) else _answer(reply)

    # --- queries -----------------------------------------------------------------------------

    def ask(
        self, kind: str, body: Mapping[str, Any], *, role: str = "projections", timeout_s: float | None = None
    ) -> Body:
        """Send a query, such as `users.find`, and return its reply as JSON. Raises the errors of `send`."""
        with self._used(), _typed(None):
            return self._connection.ask(role, kind, body, timeout_s=self._limit(timeout_s))

    def ask_many(
        self,
        questions: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        role: str,
        timeout_s: float | None = None,
    ) -> Iterator[tuple[int, Body | Failure]]:
        """Send requests of one role with up to 512 in flight, and yield each reply as it arrives, with its number from 0.

        A slow request delays no other reply. A question is a kind and a body as JSON; that of a command is made with
        `es.connection.command_body`. An error is yielded, not raised. The questions are read in another thread, which may
        wait between them. The time of a request, `timeout_s`, runs from when it is sent.
        """
        with self._used(), _typed(None):
            for number, reply in self._connection.exchange(role, questions, timeout_s=self._limit(timeout_s)):
                yield number, _of_kind(reply, None) if isinstance(reply, EsError) else reply

    def get(
        self,
        rows: str,
        key: int | str,
        *,
        after: str | None = None,
        fresh: bool = False,
        timeout_s: float | None = None,
    ) -> Body:
        """The row of a key. `rows` is a feature, `wallets`, or one of its projections: `wallets.owners`.

        It includes the events up to the position `after`; with `fresh` all that are stored now. Raises NotFound.
        """
        name = "user_id" if rows == "users" else "key"
        body = {name: str(key), **_until(after), "fresh": fresh}
        return self.ask(f"{rows}.get", body, timeout_s=timeout_s)

    def list(
        self,
        rows: str,
        *,
        after_key: int | str | None = None,
        limit: int | None = None,
        after: str | None = None,
        fresh: bool = False,
        timeout_s: float | None = None,
    ) -> Iterator[Body]:
        """Rows in order of key, from the one after `after_key` on, at most `limit`. They are read page by page."""
        body: Body = {"after": None if after_key is None else str(after_key), **_until(after), "fresh": fresh}
        left = limit
        while body is not None and (left is None or left > 0):
            page = self.ask(f"{rows}.list", {**body, "limit": min(left or 1000, 1000)}, timeout_s=timeout_s)
            found = next(page[name] for name in _ROWS if name in page)
            left = None if left is None else left - len(found)
            yield from found
            if page["next"] is None:
                return
            body |= page["next"]

    # --- what the calls share ----------------------------------------------------------------

    def _role_of(self, kind: str) -> str:
        """The role that handles a command: the first one of its feature."""
        from domain.features import outside_feature, registry

        group = kind.partition(".")[0]
        outside = outside_feature(group, self._settings.features)
        feature = registry().feature(group) or (outside and outside[0])
        return feature.roles[0].name if feature and feature.roles else group

    def _limit(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s

    @contextmanager
    def _used(self) -> Iterator[None]:
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError(
                "this client is in use: give each thread a client, and end an iterator of send_many or ask_many first"
            )
        try:
            yield
        finally:
            self._in_use.release()


def _request(command: Sendable) -> tuple[str, Mapping[str, Any]]:
    """The kind and the input of a command. Raises InvalidInput for one that no caller can send."""
    if isinstance(command, tuple):
        return command
    kind = type(command).request
    if not kind:
        raise InvalidInput("command", f"{type(command).__name__} has no request, so no caller can send it")
    values = {name: (field, getattr(command, name)) for name, field in inputs_of(type(command)).items()}
    # A personal value travels to its worker, which seals it. `to_input` refuses it, because its result may be stored.
    return kind, {
        name: value.value if isinstance(value, Personal) else field.write(value)
        for name, (field, value) in values.items()
    }


def _answer(reply: Body) -> Answer:
    id_ = next(
        (value for name, value in reply.items() if name not in _ENVELOPE and name.endswith("_id")), "0"
    )
    return Answer(reply["command_id"], int(id_), reply["version"], str(reply["position"]))


def _until(after: str | None) -> Body:
    if after is None:
        return {}
    if not (after.isascii() and after.isdecimal()):
        with _typed(None):
            raise InvalidInput("after", "is no position of an answer")
    return {"after_position": int(after)}


def _of_kind(error: EsError, command_id: str | None) -> Failure:
    """The error as one of the classes of this module."""
    wire = error.to_wire()
    typed = CLASSES[error.kind](wire["code"], error.kind, wire["message"], wire["hint"])
    typed.command_id = command_id or error.command_id
    return typed


@contextmanager
def _typed(command_id: str | None) -> Iterator[None]:
    """Raise each error as one of the classes of this module."""
    try:
        yield
    except (Refused, Invalid, NotFound, Unavailable, Damaged):
        raise
    except EsError as error:
        raise _of_kind(error, command_id) from error
