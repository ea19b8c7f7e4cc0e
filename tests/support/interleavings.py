"""Workers, janitors and the erasure process as actors that go one call of store or vault at a time.

Promise: after every episode `check` proves what must always hold, and `check_at_the_end` what must hold once all is
quiet. An actor can pause before any call while others run, and can crash there.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.log import open_log
from domain.kernel.errors import EsError, Kind
from domain.kernel.events import Recorded
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.ports.vault import ClaimState, LivingKey
from domain.users.account import (
    USER,
    ErasureCompleted,
    RegistrationAbandoned,
    Status,
    UserErased,
    UserRegistered,
)
from domain.users.errors import EmailTaken
from tests.support.accounts import ADA, GRACE, NEW_IDS, change, create, delete, erase
from tests.support.builders import streams_of
from tests.support.erasures import Erasures, until_caught_up
from tests.support.parts import Crash
from tests.support.vaults import holder
from tests.support.waiting import DEADLINE_S

ADDRESSES = (ADA, GRACE)
_TO_THE_END = 1000
"""More calls than any actor makes."""

Operation = tuple[Any, ...]
"""`("create", email)`, `("change", user, email)`, `("delete", user)`, `("erase", user)`, `("retry", n-th last command)`,
`("janitor",)` one minute later, or `("erasures",)`. A user is given by the number of its registration."""
Episode = tuple[Operation, Sequence[Any], int | None]
"""An operation, its interruptions, each after some calls by other episodes, and the calls before it crashes."""


class Actor:
    """One process in a thread. It pauses before every call of a part until `step`."""

    def __init__(self, name: str, work: Callable[[Actor], Any]) -> None:
        self.name = name
        self.is_over = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._pauses_at = "the start"
        self._must_end = False
        self._go = threading.Semaphore(0)
        self._paused = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(work,), name=name)
        self._thread.start()
        self._await_pause()

    def step(self) -> None:
        """Make the call before which it pauses, and run to the next one."""
        self._go.release()
        self._await_pause()

    def end(self) -> None:
        """Crash where it pauses."""
        self._must_end = True
        if not self.is_over:
            self.step()
        self._thread.join(DEADLINE_S)

    def pause(self, at: str) -> None:
        self._pauses_at = at
        self._paused.release()
        self._go.acquire()
        if self._must_end:
            raise Crash(at)

    def _await_pause(self) -> None:
        assert self._paused.acquire(timeout=DEADLINE_S), f"{self.name} hangs at {self._pauses_at}"

    def _run(self, work: Callable[[Actor], Any]) -> None:
        try:
            self.pause("the start")
            result = work(self)
            self.pause("the reply")
            self.result = result
        except Crash:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.is_over = True
            self._paused.release()


class Paused:
    """A part whose caller pauses before every call."""

    def __init__(self, actor: Actor, part: Any, name: str) -> None:
        self._actor, self._part, self._name = actor, part, name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self._actor.pause(f"{self._name}.{method}")
            result = getattr(self._part, method)(*args, **more)
            return iter(list(result)) if isinstance(result, Iterator) else result

        return call


class Interleavings:
    """One system with a registered user, ADA, on which episodes are played."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.log = open_log("interleavings", self.folder / "log")
        self.accounts = Erasures(self.folder, self.log)
        self.actors: list[Actor] = []
        self.commands: list[Request] = []
        self.replied: dict[str, Body] = {}
        self.was_over = False
        """Whether the last interrupted actor was over before its interruption."""
        self.play(("create", ADA))

    def close(self) -> None:
        for actor in self.actors:
            actor.end()
        self.accounts.close()
        shutil.rmtree(self.folder)

    def play(
        self, operation: Operation, interruptions: Sequence[Any] = (), crashes_after: int | None = None
    ) -> None:
        """Run an operation, with the episodes that interrupt it, then check."""
        actor = self._started(*operation)
        for steps, episodes in interruptions:
            self._continue(actor, steps)
            self.was_over = actor.is_over
            for episode in episodes:
                self.play(*episode)
        self._continue(actor, _TO_THE_END if crashes_after is None else crashes_after)
        actor.end()
        self._collect()
        self.check()

    def _started(self, what: str, *how: Any) -> Actor:
        match what:
            case "retry":
                return self._worker(self.commands[-1 - how[0] % len(self.commands)])
            case "janitor":
                self.accounts.let_reservations_expire()
                return self._begin(
                    "janitor", lambda a: self.accounts.claims(**self._parts(a)).settle_expired()
                )
            case "erasures":
                return self._begin("erasures", lambda a: self.accounts.run(**self._parts(a)))
        self.commands.append(self._new_command(what, *how))
        return self._worker(self.commands[-1])

    def _continue(self, actor: Actor, steps: int) -> None:
        for _ in range(steps):
            if not actor.is_over:
                actor.step()

    # --- what always holds ---------------------------------------------------------------------

    def check(self) -> None:
        self._an_address_has_one_active_user()
        self._no_command_takes_effect_twice()
        self._what_was_replied_stays()
        self._nothing_follows_a_fence()

    def _an_address_has_one_active_user(self) -> None:
        active = self.accounts.active()
        addresses = Counter(email for _, email in active)
        assert all(count == 1 for count in addresses.values()), active

    def _no_command_takes_effect_twice(self) -> None:
        done = Counter(command for command, _ in self._events())
        assert all(count == 1 for count in done.values()), done

    def _what_was_replied_stays(self) -> None:
        stored = {str(command): recorded for command, recorded in self._events()}
        for command, reply in self.replied.items():
            if command in stored:
                recorded = stored[command]
                assert (USER.stream_of(int(reply["user_id"])), reply["version"], reply["position"]) == (
                    recorded.stream,
                    recorded.version,
                    recorded.position,
                )
            else:
                kind = next(c.kind for c in self.commands if c.body["command_id"] == command)
                assert kind != "users.create", f"the confirmed registration {command} is lost"

    def _nothing_follows_a_fence(self) -> None:
        for name, _ in streams_of(self.accounts.store, USER.prefix):
            types = [recorded.type for recorded in self.accounts.store.read_stream(name)]
            if RegistrationAbandoned.type in types:
                assert set(types) == {RegistrationAbandoned.type}, types
            if UserErased.type in types:
                after = types[types.index(UserErased.type) + 1 :]
                assert after in ([], [ErasureCompleted.type]), types

    # --- what holds at the end -----------------------------------------------------------------

    def check_at_the_end(self) -> None:
        for actor in self.actors:
            actor.end()
        self._collect()
        self.accounts.run()
        assert self.accounts.owed() == {}
        self.accounts.run_the_janitor()
        assert self.accounts.vault.expired_claims(now_us=self.accounts.now_us, limit=10) == []
        self._every_active_user_has_one_claim_and_a_key()
        self._every_other_address_can_be_registered()
        self._every_command_has_a_definite_reply()
        self.check()

    def _every_active_user_has_one_claim_and_a_key(self) -> None:
        active = dict(self.accounts.active())
        subjects = range(NEW_IDS.start, self.accounts.take_ids(1)[0])
        for subject, key in self.accounts.vault.data_keys(subjects).items():
            status = self.accounts.user(subject).status
            has_key = status in (Status.ACTIVE, Status.DELETED)
            assert isinstance(key, LivingKey) == has_key, (subject, status)
            expected = [ClaimState.CONFIRMED] if subject in active else []
            assert self.accounts.states(subject) == expected, (subject, status)
        for user_id, email in active.items():
            assert holder(self.accounts.vault, email) == user_id

    def _every_other_address_can_be_registered(self) -> None:
        taken = {email for _, email in self.accounts.active()}
        for email in ADDRESSES:
            (reply,) = self.accounts.handle(create(email))
            assert isinstance(reply, EmailTaken if email in taken else dict), (email, reply)

    def _every_command_has_a_definite_reply(self) -> None:
        for command in self.commands:
            (reply,) = self.accounts.handle(command)
            self._note(command, reply)
            is_definite = isinstance(reply, EsError) and reply.kind in (Kind.REFUSED, Kind.NOT_FOUND)
            assert isinstance(reply, dict) or is_definite, (command, reply)

    # --- actors and commands -------------------------------------------------------------------

    def _begin(self, name: str, work: Callable[[Actor], Any]) -> Actor:
        self.actors.append(Actor(name, work))
        return self.actors[-1]

    def _parts(self, actor: Actor) -> dict[str, Any]:
        parts = {"store": until_caught_up(self.accounts.store), "vault": self.accounts.vault}
        return {name: Paused(actor, part, name) for name, part in parts.items()}

    def _worker(self, asked: Request) -> Actor:
        def work(actor: Actor) -> tuple[Request, Reply]:
            return asked, self.accounts.service(**self._parts(actor)).handle([asked])[0]

        return self._begin("users", work)

    def _new_command(self, kind: str, *how: Any) -> Request:
        command = UUID(int=len(self.commands) + 1)
        if kind == "create":
            return create(how[0], command)
        users = [
            USER.id_of(recorded.stream)
            for recorded in self.accounts.store.read_all(0, 1000)
            if recorded.type == UserRegistered.type
        ]
        user_id = users[how[0] % len(users)]
        if kind == "change":
            return change(user_id, how[1], command)
        return delete(user_id, command) if kind == "delete" else erase(user_id, command)

    def _collect(self) -> None:
        """Note the replies of the actors that are over. An outage is no failure of theirs."""
        for actor in [actor for actor in self.actors if actor.is_over]:
            self.actors.remove(actor)
            is_outage = isinstance(actor.error, EsError) and actor.error.kind is Kind.UNAVAILABLE
            if actor.error is not None and not is_outage:
                raise actor.error
            if actor.name == "users" and actor.result is not None:
                self._note(*actor.result)

    def _note(self, command: Request, reply: Reply) -> None:
        """A reply that a caller received is a promise from now on."""
        if not isinstance(reply, dict):
            return
        command_id = command.body["command_id"]
        if command_id in {str(stored) for stored, _ in self._events()}:
            assert self.replied.setdefault(command_id, reply) == reply, "a retry returns the first result"
        else:
            assert command.kind != "users.create"  # another command stores nothing if nothing has to change

    def _events(self) -> list[tuple[UUID, Recorded]]:
        return [
            (self.accounts.codec.metadata(recorded).command_id, recorded)
            for recorded in self.accounts.store.read_all(0, 10_000)
        ]
