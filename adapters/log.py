"""Write log lines: one JSON object each, with a stable `action`.

Promise: every line has a time, a level, the worker and an action. Refusal: no personal value is written, not even
in a traceback. The messages of this project's errors are safe by design. Of any other exception only the type and
the code locations are written, because its message may quote a value.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from domain.kernel.errors import EsError

_MAX_BYTES = 5_000_000
_KEPT_FILES = 3


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # Take the time here and not from the record: otherwise the lines of two threads may be out of order.
        now_ms = time.time_ns() // 1_000_000
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ms // 1000)) + f".{now_ms % 1000:03}Z",
            "level": record.levelname.lower(),
            "worker": record.name,
            "action": record.msg,
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info is not None and record.exc_info[1] is not None:
            line.update(describe(record.exc_info[1]))
        return json.dumps(line, ensure_ascii=False, default=str)


def describe(error: BaseException) -> dict[str, Any]:
    """The fields of an exception for a log line, without a message that may quote a value."""
    if isinstance(error, EsError):
        return {"error": error.code, "message": str(error), "hint": error.hint}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen importlib")
    ]
    return {
        "error": type(error).__name__,
        "at": [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-8:]],
    }


class Log:
    """Writes lines with an action and fields."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def info(self, action: str, **fields: object) -> None:
        self._logger.info(action, extra={"fields": fields})

    def warning(self, action: str, **fields: object) -> None:
        self._logger.warning(action, extra={"fields": fields})

    def error(self, action: str, error: BaseException, **fields: object) -> None:
        self._logger.error(action, exc_info=error, extra={"fields": fields})

    def close(self) -> None:
        for handler in self._logger.handlers:
            handler.close()


def _file(where: Path | str | int) -> tuple[int, int] | None:
    """Which file it is; None if there is none."""
    try:
        found = os.stat(where)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _Rotated(logging.handlers.RotatingFileHandler):
    """A rotated file that is opened again after it, or its folder, was removed or moved."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = path.parent
        self._home = _file(path.parent.parent)
        super().__init__(
            path, maxBytes=_MAX_BYTES, backupCount=_KEPT_FILES, encoding="utf-8", errors="backslashreplace"
        )

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            self._reopen_if_gone()
        super().emit(record)

    def _reopen_if_gone(self) -> None:
        # Nothing is created where the home was: its worker ends, and another home may be there.
        is_there = self.stream is None or _file(self.baseFilename) == _file(self.stream.fileno())
        if is_there or _file(self._folder.parent) != self._home:
            return
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self.close()
        self.stream = self._open()


def open_log(name: str, path: Path | None) -> Log:
    """The log of one worker: a file that is rotated at 5 MB (3 old ones are kept), or standard error."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr) if path is None else _Rotated(path)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers[:] = [handler]
    return Log(logger)
