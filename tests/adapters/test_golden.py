"""Golden files: the stored bytes of every released event version, and the event that they decode to.

The files in `short` have the form that is written: sealed fields and metadata repeat nothing. Those beside the folder have the
former one, which stores hold for ever. `python -m tests.adapters.test_golden` writes a missing file. A file is never changed,
apart from `becomes` when its event gets a new version: it is then the result of the upcasters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from adapters.crypto.sealing import Keyring
from adapters.wiring import open_codec
from domain.kernel.events import Event, EventData, Metadata, Recorded, personal_fields, shown_fields
from domain.kernel.personal import Sealed
from domain.kernel.ports.vault import DestroyedKey, LivingKey
from tests.support.builders import a_sample, event_classes, recorded

FOLDER = Path(__file__).resolve().parent.parent / "golden"
SHORT = FOLDER / "short"
FILES = sorted(FOLDER.rglob("*.json"))
CODEC = open_codec()

_SUBJECT = 1234567890123456789
_EVENT_ID = UUID("00000000-0000-5000-8000-000000000001")
_COMMAND_ID = UUID("00000000-0000-4000-8000-000000000002")
_METADATA = Metadata(_COMMAND_ID, "some-command", _COMMAND_ID, _COMMAND_ID, "uid:1000")
_KEY = bytes(range(32))


def _name(path: Path) -> str:
    return str(path.relative_to(FOLDER))


_each_file = pytest.mark.parametrize("path", FILES, ids=_name)


def _load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def _recorded(golden: dict[str, Any]) -> Recorded:
    event = EventData(
        UUID(golden["event_id"]), golden["type"], golden["data"].encode(), golden["metadata"].encode()
    )
    return recorded(event, stream=f"user-{golden['subject']}")


def _opened(golden: dict[str, Any]) -> Event:
    keyring = Keyring({golden["subject"]: LivingKey(bytes.fromhex(golden["key"]))})
    return CODEC.decode(_recorded(golden), subject=golden["subject"], opener=keyring)


@pytest.mark.parametrize("event_class", event_classes(), ids=lambda event_class: event_class.type)
def test_every_event_type_has_a_golden_file(event_class: type[Event]) -> None:
    assert (SHORT / f"{event_class.type}.json").exists(), "run python -m tests.adapters.test_golden"


@_each_file
def test_a_golden_file_is_named_after_its_event_type(path: Path) -> None:
    assert _load(path)["type"] == path.stem


@_each_file
def test_released_bytes_decode_to_the_expected_event(path: Path) -> None:
    golden = _load(path)

    event = _opened(golden)

    assert type(event).__name__ == golden["becomes"]["class"]
    assert shown_fields(event) == golden["becomes"]["fields"]


@_each_file
def test_released_bytes_decode_without_a_key_and_after_an_erasure(path: Path) -> None:
    golden = _load(path)
    event_class = type(_opened(golden))
    erased = Keyring({golden["subject"]: DestroyedKey()})

    sealed = CODEC.decode(_recorded(golden))
    blank = CODEC.decode(_recorded(golden), subject=golden["subject"], opener=erased)

    for name in personal_fields(event_class):
        assert isinstance(getattr(sealed, name), Sealed)
        assert shown_fields(blank)[name] is None


@_each_file
def test_released_metadata_decodes(path: Path) -> None:
    assert CODEC.metadata(_recorded(_load(path))) == _METADATA


@pytest.mark.parametrize("path", sorted(SHORT.glob("*.json")), ids=_name)
def test_an_event_is_encoded_as_when_it_was_released(path: Path) -> None:
    golden = _load(path)
    event = _opened(golden)
    if event.type != golden["type"]:
        pytest.skip(f"{golden['type']} is an older version, which is not written")

    written = _write(event)

    assert written.metadata.decode() == golden["metadata"]
    now, then = (json.loads(data) for data in (written.data, golden["data"]))
    assert list(now) == list(then), "names and order of the fields"
    for name in now:
        if name in personal_fields(type(event)):  # a new nonce each time, but the same prefix and length
            assert now[name].rpartition(":")[0] == then[name].rpartition(":")[0]
            assert len(now[name]) == len(then[name])
        else:
            assert now[name] == then[name]
    if not personal_fields(type(event)):
        assert written.data.decode() == golden["data"]


def _write(event: Event) -> EventData:
    keyring = Keyring({_SUBJECT: LivingKey(_KEY)})
    return CODEC.encode(event, event_id=_EVENT_ID, subject=_SUBJECT, metadata=_METADATA, sealer=keyring)


def write_missing() -> None:
    SHORT.mkdir(exist_ok=True)
    for event_class in event_classes():
        path = SHORT / f"{event_class.type}.json"
        if path.exists():
            continue
        event = a_sample(event_class)
        written = _write(event)
        golden = {
            "type": written.type,
            "event_id": str(written.event_id),
            "subject": _SUBJECT,
            "key": _KEY.hex(),
            "data": written.data.decode(),
            "metadata": written.metadata.decode(),
            "becomes": {"class": event_class.__name__, "fields": shown_fields(event)},
        }
        path.write_text(json.dumps(golden, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"wrote {_name(path)}")


if __name__ == "__main__":
    write_missing()
