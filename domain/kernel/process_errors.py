"""Errors of process managers: they concern one instance, which goes into quarantine."""

from __future__ import annotations

from domain.kernel.errors import EsError, Kind


class ProcessFailed(EsError):
    """The rules of a process manager failed. The instance stays as it is, in quarantine."""

    process: str
    reason: str
    code = "process-failed"
    kind = Kind.DAMAGED
    hint = "Fix the rules of the process, then `es processes retry`."

    def __str__(self) -> str:
        return f"the process {self.process} {self.reason}"


class ProcessRulesUnknown(EsError):
    """An instance was started by rules that this program does not have."""

    process: str
    rules: int
    code = "process-rules-unknown"
    kind = Kind.DAMAGED
    hint = "Register these rules as `earlier` rules of the process, then `es processes retry`."

    def __str__(self) -> str:
        return f"version {self.rules} of the rules of the process {self.process} is not known"
