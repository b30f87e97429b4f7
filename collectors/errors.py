"""Errors a person can act on: a slug, one sentence that says what and which, and a remedy.

Every error that cputax raises on purpose is one of these; the command line prints it and exits
with its ``exit_code``. A raw traceback therefore always means a bug.
"""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the shell sees."""

    DONE = 0
    GATE_OR_PARTIAL = 1  # a finding broke a gate the user set, or the capture is partial
    USAGE = 2
    TARGET = 3  # not found, exited, not Python, not vLLM
    PERMISSION = 4  # a permission or a capability is missing
    BAD_INPUT = 5  # a bad input file


class CputaxError(Exception):
    """Base of all errors: ``slug`` for machines, ``message`` for people, ``remedy`` to paste."""

    slug: ClassVar[str] = "error"
    exit_code: ClassVar[ExitCode] = ExitCode.GATE_OR_PARTIAL

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class TargetNotFound(CputaxError):
    """No live process has this PID."""

    slug = "target-not-found"
    exit_code = ExitCode.TARGET


class TargetExited(CputaxError):
    """The process was there and is gone."""

    slug = "target-exited"
    exit_code = ExitCode.TARGET


class TargetReplaced(CputaxError):
    """The PID now belongs to another process than the one that was chosen."""

    slug = "target-replaced"
    exit_code = ExitCode.TARGET


class TargetNotPython(CputaxError):
    """The process runs no Python interpreter that the probes know."""

    slug = "target-not-python"
    exit_code = ExitCode.TARGET


class TargetForbidden(CputaxError):
    """The kernel refuses to let us read the process."""

    slug = "target-forbidden"
    exit_code = ExitCode.PERMISSION


class ProbeUnavailable(CputaxError):
    """A probe that was asked for by name cannot work here."""

    slug = "probe-unavailable"
    exit_code = ExitCode.PERMISSION


class OutputExists(CputaxError):
    """The place for the capture is taken."""

    slug = "output-exists"
    exit_code = ExitCode.USAGE


class OutputNotWritable(CputaxError):
    """The capture cannot be written where it was asked for."""

    slug = "output-not-writable"
    exit_code = ExitCode.PERMISSION


class OutputFull(CputaxError):
    """No space was left while recording."""

    slug = "output-full"
    exit_code = ExitCode.GATE_OR_PARTIAL


class CaptureInvalid(CputaxError):
    """The path holds no capture that this version can read."""

    slug = "capture-invalid"
    exit_code = ExitCode.BAD_INPUT


class ImportInvalid(CputaxError):
    """A foreign file does not follow its format."""

    slug = "import-invalid"
    exit_code = ExitCode.BAD_INPUT


FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def output_error(error: OSError, path: str) -> CputaxError:
    """Turn an OS error met while writing ``path`` into the error to show."""
    if error.errno in FULL_ERRNOS:
        return OutputFull(
            f"no space left while writing the capture at {path}",
            f"free space or record elsewhere; what was recorded is kept: cputax analyze {path}",
        )
    if error.errno == errno.EEXIST:
        return OutputExists(
            f"{path} already exists",
            "choose another directory with -o, or remove this one first",
        )
    reason = errno.errorcode.get(error.errno or 0, "unknown")
    return OutputNotWritable(
        f"cannot write the capture at {path} ({reason})",
        "choose a directory you may write to: cputax attach PID -o ~/my.capture",
    )
