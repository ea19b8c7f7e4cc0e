"""Settling of e-mail claims: by what the stream says, from any crash, in any interleaving.

The state machine at the end is the proof that reserve → append → confirm is safe: processes that go one
step of their parts at a time, in any order, end anywhere, and come back.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import wiring
from adapters.log import open_log
from domain.kernel.errors import Damaged, EsError, Kind, PartUnavailable
from domain.kernel.events import Recorded
from domain.kernel.messages import Reply, Request
from domain.kernel.ports.vault import ClaimRequest, ClaimState, DestroyedKey, LivingKey, Reserved
from domain.users.account import (
    USER,
    EmailChangeAbandoned,
    ErasureCompleted,
    RegistrationAbandoned,
    Status,
    UserErased,
    UserRegistered,
)
from domain.users.errors import EmailTaken
from tests.support.waiting import DEADLINE_S
from tests.workers.users.test_users_service import (
    ADA,
    ALAN,
    GRACE,
    Crash,
    Hooked,
    People,
    Steps,
    change,
    crashed,
    create,
    delete,
    erase,
    every_crash,
    rename,
)
from workers.erasures.process import ErasureProcess


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    with closing(People(tmp_path / "people")) as opened:
        yield opened


def reserve(people: People, email: str, subject: int, *, registers: bool = False) -> Reserved:
    """A reservation whose command never went on."""
    request = ClaimRequest(email, subject, uuid4(), uuid4(), registers)
    (answer,) = people.vault.reserve([request], now_us=people.now_us)
    assert isinstance(answer, Reserved)
    return answer


# --- settling --------------------------------------------------------------------------------


def test_the_claim_of_the_present_address_is_confirmed(people: People) -> None:
    service = people.service(vault=Hooked(people.vault, "confirm", _die))  # type: ignore[arg-type]
    with pytest.raises(Crash):
        service.handle([create(ADA)])
    (user_id,) = [user_id for user_id, _ in people.living()]
    assert people.states(user_id) == [ClaimState.RESERVED]

    people.claims().settle(user_id)

    assert people.states(user_id) == [ClaimState.CONFIRMED]


def _die() -> None:
    raise Crash("as told")


def test_the_claims_of_left_addresses_are_released(people: People) -> None:
    user_id = people.a_user(ADA)
    people.done(change(user_id, GRACE))
    people.done(change(user_id, ALAN))
    assert len(people.states(user_id)) == 3

    people.claims().settle(user_id)

    assert [people.vault.holder(email) for email in (ADA, GRACE, ALAN)] == [None, None, user_id]


@pytest.mark.parametrize("end", [delete, erase])
def test_all_claims_are_released_when_the_account_ends(people: People, end: Callable[[int], Request]) -> None:
    user_id = people.a_user(ADA)
    people.done(end(user_id))

    people.claims().settle(user_id)

    assert people.states(user_id) == []
    assert isinstance(people.vault.data_keys([user_id])[user_id], LivingKey), "keys are destroyed elsewhere"


def test_a_claim_of_a_command_under_way_is_left_alone(people: People) -> None:
    user_id = people.a_user(ADA)
    reserve(people, GRACE, user_id)
    reserve(people, ALAN, 77, registers=True)
    head = people.store.head()

    people.claims().settle(user_id)
    people.claims().settle(77)
    assert people.claims().settle_expired() == 0

    assert [people.vault.holder(email) for email in (ADA, GRACE, ALAN)] == [user_id, user_id, 77]
    assert people.store.head() == head


def test_an_expired_change_is_fenced_in_the_stream_before_its_address_is_free(people: People) -> None:
    user_id = people.a_user(ADA)
    reservation = reserve(people, GRACE, user_id).reservation_id
    people.let_reservations_expire()
    steps = Steps()

    people.claims(
        store=steps.watched(people.store, "store"), vault=steps.watched(people.vault, "vault")
    ).settle(user_id)

    assert steps.calls[-2:] == ["store.append", "vault.release"]
    (fence,) = people.store.read_stream(USER.stream_of(user_id), 1)
    assert people.codec.decode(fence) == EmailChangeAbandoned(str(reservation))
    assert people.codec.metadata(fence).actor == "process:claims"
    assert people.states(user_id) == [ClaimState.CONFIRMED]


def test_an_expired_registration_is_fenced_before_its_key_is_destroyed(people: People) -> None:
    reservation = reserve(people, ADA, 77, registers=True).reservation_id
    people.let_reservations_expire()
    steps = Steps()

    people.claims(
        store=steps.watched(people.store, "store"), vault=steps.watched(people.vault, "vault")
    ).settle(77)

    assert steps.calls[-2:] == ["store.append", "vault.abandon_registration"]
    (fence,) = people.store.read_stream(USER.stream_of(77))
    assert people.codec.decode(fence) == RegistrationAbandoned(str(reservation))
    assert people.vault.data_keys([77]) == {77: DestroyedKey()}
    assert people.vault.holder(ADA) is None


@pytest.mark.parametrize("end", [delete, erase])
def test_the_end_of_an_account_is_fence_enough(people: People, end: Callable[[int], Request]) -> None:
    user_id = people.a_user(ADA)
    reserve(people, GRACE, user_id)
    people.done(end(user_id))
    people.let_reservations_expire()
    head = people.store.head()

    assert people.claims().settle_expired() == 1

    assert people.states(user_id) == []
    assert people.store.head() == head


def test_settling_twice_changes_nothing(people: People) -> None:
    user_id = people.a_user(ADA)
    reserve(people, GRACE, user_id)
    reserve(people, ALAN, 77, registers=True)
    people.let_reservations_expire()
    people.claims().settle_expired()
    head = people.store.head()

    people.claims().settle(user_id)
    people.claims().settle(77)

    assert people.claims().settle_expired() == 0
    assert people.store.head() == head


def test_a_fence_that_loses_a_race_is_decided_anew(people: People) -> None:
    user_id = people.a_user(ADA)
    reserve(people, GRACE, user_id)
    people.let_reservations_expire()
    store = Hooked(people.store, "append", lambda: people.done(rename(user_id, "Faster")))

    people.claims(store=store).settle(user_id)  # type: ignore[arg-type]

    assert people.types(user_id) == ["user-registered.v1", "user-renamed.v1", "email-change-abandoned.v1"]
    assert people.states(user_id) == [ClaimState.CONFIRMED]


def test_a_fence_that_loses_to_the_late_append_confirms_it(people: People) -> None:
    user_id = people.a_user(ADA)
    service = people.service(store=Hooked(people.store, "append", lambda: _race(people, user_id)))  # type: ignore[arg-type]

    (reply,) = service.handle([change(user_id, GRACE)])

    assert isinstance(reply, dict)
    assert people.living() == [(user_id, GRACE)]
    people.claims().settle(user_id)
    assert people.vault.holder(GRACE) == user_id


def _race(people: People, user_id: int) -> None:
    people.let_reservations_expire()
    people.claims().settle(user_id)


def test_a_hot_stream_is_left_to_the_next_round(people: People) -> None:
    user_id = people.a_user(ADA)
    reserve(people, GRACE, user_id)
    people.let_reservations_expire()

    class Hot:
        def append(self, batch: Sequence[Any]) -> Any:
            people.done(rename(user_id, uuid4().hex))
            return people.store.append(batch)

        def __getattr__(self, name: str) -> Any:
            return getattr(people.store, name)

    people.claims(store=Hot()).settle(user_id)  # type: ignore[arg-type]

    assert people.vault.holder(GRACE) == user_id, "not fenced, so not freed"
    people.claims().settle(user_id)
    assert people.vault.holder(GRACE) is None


def test_the_janitor_settles_at_most_as_many_as_it_is_told_and_goes_on(people: People) -> None:
    for number in range(5):
        reserve(people, f"user{number}@example.com", 100 + number, registers=True)
    people.let_reservations_expire()

    assert [people.claims().settle_expired(limit=2) for _ in range(4)] == [2, 2, 1, 0]


def test_a_damaged_stream_does_not_keep_the_janitor_from_the_others(people: People) -> None:
    from tests.workers.users.test_users_service import _damage

    damaged, other = people.a_user(ADA), people.a_user(GRACE)
    reserve(people, "first@example.com", damaged)
    people.now_us += 1
    reserve(people, "second@example.com", other)
    _damage(people, damaged)
    people.let_reservations_expire()

    with contextlib.suppress(Damaged):  # it may say so, but afterwards
        people.claims().settle_expired()

    assert people.vault.holder("second@example.com") is None
    assert people.vault.holder("first@example.com") == damaged, "what can't be decided isn't freed"


def test_a_janitor_without_its_parts_says_so_and_changes_nothing(people: People) -> None:
    reserve(people, ADA, 77, registers=True)
    people.let_reservations_expire()

    def down() -> None:
        raise PartUnavailable("event store", "it is down")

    with pytest.raises(PartUnavailable):
        people.claims(store=Hooked(people.store, "append", down)).settle_expired()  # type: ignore[arg-type]

    assert people.vault.holder(ADA) == 77
    assert people.claims().settle_expired() == 1
    assert people.vault.holder(ADA) is None


@pytest.mark.parametrize("what", ["registration", "change"])
def test_a_janitor_that_ends_anywhere_is_finished_by_the_next(tmp_path: Path, what: str) -> None:
    def prepared(folder: Path) -> tuple[People, int]:
        people = People(folder)
        subject = 77 if what == "registration" else people.a_user(GRACE)
        reserve(people, ADA, subject, registers=what == "registration")
        people.let_reservations_expire()
        return people, subject

    def run(people: People) -> Callable[[Steps], object]:
        return lambda steps: people.claims(
            store=steps.watched(people.store, "store"), vault=steps.watched(people.vault, "vault")
        ).settle_expired()

    counted, _ = prepared(tmp_path / "counting")
    for at, after in every_crash(run(counted)):
        people, subject = prepared(tmp_path / f"{at}{after}")
        with closing(people):
            where = crashed(run(people), at, after=after)

            people.claims().settle_expired()

            assert people.vault.expired_claims(now_us=people.now_us, limit=10) == [], where
            assert people.vault.holder(ADA) is None, where
            fences = [type_ for type_ in people.types(subject) if type_.endswith("abandoned.v1")]
            assert len(fences) == 1, where
            assert isinstance(people.done(create(ADA)), dict), where
    counted.close()


# --- any interleaving ------------------------------------------------------------------------


class Actor:
    """One process at work. It stops before every call of a part, goes on when told, and can end there."""

    def __init__(self, name: str, work: Callable[[Actor], Any]) -> None:
        self.name = name
        self.at = "the start"
        self.is_over = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._is_ending = False
        self._go = threading.Semaphore(0)
        self._arrived = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(work,), name=name)
        self._thread.start()
        self._await_arrival()

    def step(self) -> None:
        """Let it make the call it stands before, and everything up to the next."""
        self._go.release()
        self._await_arrival()

    def end(self) -> None:
        """The process ends where it is."""
        self._is_ending = True
        if not self.is_over:
            self.step()
        self._thread.join(DEADLINE_S)

    def watched(self, part: Any, name: str) -> Any:
        actor = self

        class Watched:
            def __getattr__(self, method: str) -> Callable[..., Any]:
                def call(*args: Any, **more: Any) -> Any:
                    actor._stop_before(f"{name}.{method}")
                    result = getattr(part, method)(*args, **more)
                    return iter(list(result)) if isinstance(result, Iterator) else result

                return call

        return Watched()

    def _await_arrival(self) -> None:
        assert self._arrived.acquire(timeout=DEADLINE_S), f"{self.name} hangs at {self.at}"

    def _stop_before(self, what: str) -> None:
        self.at = what
        self._arrived.release()
        self._go.acquire()
        if self._is_ending:
            raise Crash(what)

    def _run(self, work: Callable[[Actor], Any]) -> None:
        try:
            self._stop_before("the start")
            result = work(self)
            self._stop_before("the reply")
            self.result = result
        except Crash:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.is_over = True
            self._arrived.release()


_ADDRESSES = (ADA, GRACE)
_ALL = 1000  # steps; far more than anybody takes

_operations = st.one_of(
    st.tuples(st.just("change"), st.integers(0, 1), st.sampled_from(_ADDRESSES)),
    st.tuples(st.just("create"), st.sampled_from(_ADDRESSES)),
    st.tuples(
        st.just("again"), st.sampled_from([0, 0, 1, 2])
    ),  # one of the last commands, delivered once more
    st.just(("a minute passes and a janitor comes",)),
    st.just(("the erasure process",)),
    st.tuples(st.just("delete"), st.integers(0, 1)),
    st.tuples(st.just("erase"), st.integers(0, 1)),
)


def _episodes(depth: int) -> st.SearchStrategy[tuple[Any, ...]]:
    """An operation, where it is interrupted and by which other episodes, and after how many steps it is cut off.

    Random single steps of many processes would hardly ever meet in an interesting place. What goes wrong in
    practice takes few interruptions: somebody stands still while others do whole things.
    """
    interruptions = (
        st.lists(
            st.tuples(st.integers(1, 5), st.lists(_episodes(depth - 1), min_size=1, max_size=3)), max_size=2
        )
        if depth
        else st.just([])
    )
    cut_off_after = st.one_of(st.none(), st.none(), st.integers(0, 8))
    return st.tuples(_operations, interruptions, cut_off_after)


class Interleavings:
    """Commands, janitors and the erasure process at once, each one step at a time."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.people = People(self.folder)
        self.log = open_log("interleavings", self.folder / "log")
        self.actors: list[Actor] = []
        self.commands: list[Request] = []
        self.promised: dict[str, dict[str, Any]] = {}
        self.processed = 0
        self.was_over = False  # when its last interruption came
        self.play(("create", ADA), [], None)

    def close(self) -> None:
        for actor in self.actors:
            actor.end()
        self.people.close()
        shutil.rmtree(self.folder)

    # --- what can happen -----------------------------------------------------------------------

    def play(self, operation: tuple[Any, ...], interruptions: list[Any], cut_off_after: int | None) -> None:
        """One episode, with everything that happens in between."""
        actor = self._started(*operation)
        if actor is None:
            return
        for steps, episodes in interruptions:
            self._go_on(actor, steps)
            self.was_over = actor.is_over
            for episode in episodes:
                self.play(*episode)
        self._go_on(actor, _ALL if cut_off_after is None else cut_off_after)
        actor.end()
        self._bury()
        self.check()

    def _started(self, what: str, *how: Any) -> Actor | None:
        match what:
            case "again":
                return self._worker(self.commands[-1 - how[0] % len(self.commands)])
            case "a minute passes and a janitor comes":
                self.people.let_reservations_expire()
                return self._begin("janitor", lambda actor: self._claims(actor).settle_expired())
            case "the erasure process":
                return self._begin("erasures", self._process)
        self.commands.append(self._new_command(what, *how))
        return self._worker(self.commands[-1])

    def _go_on(self, actor: Actor, steps: int) -> None:
        for _ in range(steps):
            if not actor.is_over:
                actor.step()

    # --- what always holds ---------------------------------------------------------------------

    def check(self) -> None:
        self.an_address_has_one_living_user()
        self.no_command_has_its_effect_twice()
        self.what_was_answered_stays()
        self.a_fence_is_the_end()

    def an_address_has_one_living_user(self) -> None:
        living = self.people.living()
        addresses = Counter(email for _, email in living)
        assert all(count == 1 for count in addresses.values()), living

    def no_command_has_its_effect_twice(self) -> None:
        done = Counter(command for command, _ in self._events())
        assert all(count == 1 for count in done.values()), done

    def what_was_answered_stays(self) -> None:
        stored = {str(command): recorded for command, recorded in self._events()}
        for command, reply in self.promised.items():
            if command in stored:
                recorded = stored[command]
                assert (USER.stream_of(int(reply["user_id"])), reply["version"], reply["position"]) == (
                    recorded.stream,
                    recorded.version,
                    recorded.position,
                )
            else:
                kind = next(c.kind for c in self.commands if c.body["command_id"] == command)
                assert kind != "users.create", f"the answered registration {command} is lost"

    def a_fence_is_the_end(self) -> None:
        for name, _ in self.people.store.streams(prefix=USER.prefix):
            types = [recorded.type for recorded in self.people.store.read_stream(name)]
            if RegistrationAbandoned.type in types:
                assert set(types) == {RegistrationAbandoned.type}, types
            if UserErased.type in types:
                behind = types[types.index(UserErased.type) + 1 :]
                assert behind in ([], [ErasureCompleted.type]), types

    # --- what holds in the end -----------------------------------------------------------------

    def check_in_the_end(self) -> None:
        for actor in self.actors:
            actor.end()
        self._bury()
        self._come_to_rest()
        self._check_claims()
        self._check_that_free_addresses_can_be_had()
        self._check_that_every_command_has_an_answer()
        self.check()

    def _come_to_rest(self) -> None:
        while self.processed < self.people.store.head():
            self._react_to_all(self._erasures(self.people.store, self.people.vault))
        self.people.let_reservations_expire()
        self.people.claims().settle_expired()
        assert self.people.vault.expired_claims(now_us=self.people.now_us, limit=10) == []

    def _check_claims(self) -> None:
        living = dict(self.people.living())
        subjects = range(1000, self.people.take_ids(1)[0])
        for subject, key in self.people.vault.data_keys(subjects).items():
            status = self.people.user(subject).status
            assert isinstance(key, LivingKey) == (status in (Status.ACTIVE, Status.DELETED)), (
                subject,
                status,
            )
            expected = [ClaimState.CONFIRMED] if subject in living else []
            assert self.people.states(subject) == expected, (subject, status)
        for user_id, email in living.items():
            assert self.people.vault.holder(email) == user_id

    def _check_that_free_addresses_can_be_had(self) -> None:
        taken = {email for _, email in self.people.living()}
        for email in _ADDRESSES:
            (reply,) = self.people.handle(create(email))
            assert isinstance(reply, EmailTaken if email in taken else dict), (email, reply)

    def _check_that_every_command_has_an_answer(self) -> None:
        for command in self.commands:
            (reply,) = self.people.handle(command)
            self._note(command, reply)
            assert isinstance(reply, dict) or reply.kind in (Kind.REFUSED, Kind.NOT_FOUND), (command, reply)  # type: ignore[union-attr]

    # --- the machinery -------------------------------------------------------------------------

    def _new_command(self, kind: str, *how: Any) -> Request:
        command = UUID(int=len(self.commands) + 1)
        if kind == "create":
            return create(how[0], command)
        users = [
            int(recorded.stream.removeprefix(USER.prefix))
            for recorded in self.people.store.read_all(0, 1000)
            if recorded.type == UserRegistered.type
        ]
        user_id = users[how[0] % len(users)]
        match kind:
            case "change":
                return change(user_id, how[1], command)
            case "delete":
                return delete(user_id, command)
        return erase(user_id, command)

    def _worker(self, asked: Request) -> Actor:
        def work(actor: Actor) -> tuple[Request, Reply]:
            service = self.people.service(
                store=actor.watched(self.people.store, "store"),
                vault=actor.watched(self.people.vault, "vault"),
            )
            return asked, service.handle([asked])[0]

        return self._begin("users", work)

    def _claims(self, actor: Actor) -> Any:
        return self.people.claims(
            store=actor.watched(self.people.store, "store"), vault=actor.watched(self.people.vault, "vault")
        )

    def _process(self, actor: Actor) -> None:
        self._react_to_all(
            self._erasures(
                actor.watched(self.people.store, "store"), actor.watched(self.people.vault, "vault")
            )
        )

    def _erasures(self, store: Any, vault: Any) -> ErasureProcess:
        return ErasureProcess(
            store=store,
            codec=self.people.codec,
            keyring=wiring.keyring_of(vault),
            vault=vault,
            purge_dead_letters=None,
            claims=self.people.claims(store=store, vault=vault),
            handler=self.people.handler(store=store, vault=vault),
            log=self.log,
        )

    def _react_to_all(self, process: ErasureProcess) -> None:
        for recorded in list(self.people.store.read_all(self.processed, 1000)):
            process.react(recorded)
            self.processed = max(self.processed, recorded.position)

    def _begin(self, name: str, work: Callable[[Actor], Any]) -> Actor:
        self.actors.append(Actor(name, work))
        return self.actors[-1]

    def _bury(self) -> None:
        for actor in [actor for actor in self.actors if actor.is_over]:
            self.actors.remove(actor)
            if actor.error is not None and not (
                isinstance(actor.error, EsError) and actor.error.kind is Kind.UNAVAILABLE
            ):
                raise actor.error
            if actor.name == "users" and actor.result is not None:
                self._note(*actor.result)

    def _note(self, command: Request, reply: Reply) -> None:
        """What a caller was told is a promise from then on."""
        if not isinstance(reply, dict):
            return
        command_id = command.body["command_id"]
        stored = {str(stored) for stored, _ in self._events()}
        if command_id in stored:
            assert self.promised.setdefault(command_id, reply) == reply, "answered as the first time"
        else:
            assert command.kind != "users.create"  # what changed nothing isn't stored, and needn't be

    def _events(self) -> list[tuple[UUID, Recorded]]:
        return [
            (self.people.codec.metadata(recorded).command_id, recorded)
            for recorded in self.people.store.read_all(0, 10_000)
        ]


_CHANGE, _BACK, _CREATE = ("change", 0, GRACE), ("change", 0, ADA), ("create", GRACE)
_AGAIN, _DELETE, _ERASE = ("again", 0), ("delete", 0), ("erase", 0)
_JANITOR, _PROCESS = ("a minute passes and a janitor comes",), ("the erasure process",)

_SCENES: dict[str, tuple[list[tuple[Any, ...]], tuple[Any, ...]]] = {
    "a registration": ([], _CREATE),
    "a change": ([], _CHANGE),
    "a registration that was cut off before": ([(_CREATE, [], 3)], _AGAIN),
    "a change that was cut off before": ([(_CHANGE, [], 3)], _AGAIN),
    "a change that was left behind since": (
        [(_CHANGE, [], None), (_BACK, [], None), (_PROCESS, [], None)],
        ("again", 1),
    ),
    "the janitor of a registration": ([(_CREATE, [], 3)], _JANITOR),
    "the janitor of a change": ([(_CHANGE, [], 3)], _JANITOR),
    "the janitor of a change that was appended": ([(_CHANGE, [], 5)], _JANITOR),
    "the process after a change": ([(_CHANGE, [], None)], _PROCESS),
    "the process after an erasure": ([(_ERASE, [], None)], _PROCESS),
}
"""What happened before, and the operation that is interrupted."""
_MEANWHILE: list[list[tuple[Any, ...]]] = [
    [_AGAIN],
    [_AGAIN, _BACK],
    [_CHANGE],
    [_CREATE],
    [_JANITOR],
    [_JANITOR, _CREATE],
    [_JANITOR, _AGAIN],
    [_DELETE],
    [_DELETE, _CREATE],
    [_ERASE, _PROCESS],
    [_CHANGE, _BACK, _PROCESS],
]


@pytest.mark.parametrize("scene", _SCENES)
def test_whoever_stands_still_anywhere_while_others_do_whole_things(scene: str) -> None:
    """Every place where the operation can stand still, and each of the things that may happen meanwhile."""
    before, operation = _SCENES[scene]
    for meanwhile in _MEANWHILE:
        for steps in range(1, 100):
            with closing(Interleavings()) as world:
                try:
                    for episode in before:
                        world.play(*episode)
                    world.play(operation, [(steps, [(other, [], None) for other in meanwhile])], None)
                    world.check_in_the_end()
                except AssertionError as error:
                    error.add_note(f"standing still after {steps} steps while {meanwhile}")
                    raise
                if world.was_over:
                    break
    assert world.was_over, "every place was visited"


@settings(max_examples=max(100, settings().max_examples))
@given(story=st.lists(_episodes(2), min_size=1, max_size=4))
def test_whatever_happens_in_whatever_order(story: list[tuple[Any, ...]]) -> None:
    """Always: one living user per address, whose data can be read; no command has its effect twice; what was
    answered stays. In the end, when all is quiet: every living user holds their address and nobody else
    holds any, so every other address can be had; and every command has a definite answer.
    """
    with closing(Interleavings()) as world:
        for episode in story:
            world.play(*episode)
        world.check_in_the_end()
