"""What every error promises. A test class of samples inherits it, with `error` and its `kind` as parameters."""

from __future__ import annotations

import inspect
import json
from types import ModuleType

import pytest

from domain.kernel.errors import AnsweredError, EsError, Kind, OtherSystem, Refusal

BASES = (EsError, Refusal, AnsweredError, OtherSystem)
"""Classes that stand for no rule and no failure of their own."""


def errors_in(module: ModuleType) -> list[type[EsError]]:
    """The errors of a module, imported ones included."""
    classes = [value for value in vars(module).values() if inspect.isclass(value)]
    return [class_ for class_ in classes if issubclass(class_, EsError) and class_ not in BASES]


def each_of(samples: dict[EsError, tuple[str, Kind]]) -> pytest.MarkDecorator:
    """Parameters of a test class: samples with the code and the kind that scripts rely on."""
    cases = [(error, *expected) for error, expected in samples.items()]
    return pytest.mark.parametrize(("error", "code", "kind"), cases, ids=[type(e).__name__ for e in samples])


class ErrorContract:
    @pytest.fixture(autouse=True)
    def _parameters(self, error: EsError, code: str, kind: Kind) -> None:
        """Every test has all parameters, whether or not it uses them."""

    def test_code_and_kind_are_those_that_scripts_rely_on(
        self, error: EsError, code: str, kind: Kind
    ) -> None:
        assert (error.code, error.kind) == (code, kind)

    def test_an_error_says_what_happened_and_what_to_do_next(self, error: EsError) -> None:
        message, hint = str(error), error.hint

        assert message
        assert not message.endswith(".")
        assert "\n" not in message
        assert hint.endswith(".")
        assert type(error).__name__ not in message, "a message is for people"

    def test_the_message_contains_every_field(self, error: EsError) -> None:
        said = {name: value for name, value in vars(error).items() if name not in ("hint", "__notes__")}

        assert [name for name, value in said.items() if str(value) not in str(error)] == []

    def test_an_error_crosses_a_transport_as_text(self, error: EsError) -> None:
        wire = json.loads(json.dumps(error.to_wire()))

        assert wire == {
            "code": error.code,
            "kind": error.kind.value,
            "message": str(error),
            "hint": error.hint,
        }

    def test_the_caller_receives_the_error_of_the_worker(self, error: EsError) -> None:
        answered = AnsweredError.from_wire(json.loads(json.dumps(error.to_wire())))

        assert answered.to_wire() == error.to_wire()
        assert (answered.code, answered.kind, answered.hint) == (error.code, error.kind, error.hint)
        assert str(answered) == str(error)

    def test_an_error_can_be_raised_and_caught_as_its_base(self, error: EsError) -> None:
        with pytest.raises(EsError) as caught:
            raise error

        assert caught.value is error

    def test_errors_are_compared_by_type_and_fields(self, error: EsError) -> None:
        fields = {name: value for name, value in vars(error).items() if not name.startswith("__")}

        assert type(error)(**fields) == error
        assert hash(type(error)(**fields)) == hash(error)
        assert error != EsError()
