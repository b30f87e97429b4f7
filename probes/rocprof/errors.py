"""What can go wrong between cputax and AMD's libraries, with the library's own words for it."""

from __future__ import annotations

from typing import Final

from collectors.errors import CputaxError, ExitCode
from probes.rocprof._abi import RocattachStatus, Status

_SDK_REMEDIES: Final = {
    Status.CONFIGURATION_LOCKED: (
        "another tool (the torch profiler, rocprofv3) was there first; start the server without it"
    ),
    Status.INCOMPATIBLE_ABI: "use one ROCm release for torch and for ROCM_PATH",
}
_ATTACH_REMEDIES: Final = {
    RocattachStatus.ERROR: (
        "start the server with ROCP_TOOL_ATTACH=1, and attach with the ROCm release that it runs on"
    ),
    RocattachStatus.INVALID_ARGUMENT: "end the other attach to this process first",
    RocattachStatus.PTRACE_OPERATION_NOT_PERMITTED: (
        "run as root: sudo $(command -v cputax) attach PID; in a container add SYS_PTRACE"
    ),
    RocattachStatus.PTRACE_PROCESS_NOT_FOUND: "find the server's PID: cputax ps",
}


class RocprofRefused(CputaxError):
    """AMD's library, inside the server, refused to trace."""

    slug = "rocprof-refused"
    exit_code = ExitCode.PERMISSION

    def __init__(self, pid: int, text: str, status: int | None) -> None:
        remedy = "see docs/rocprof.md for what must be installed"
        if status is not None and status in _SDK_REMEDIES:
            remedy = _SDK_REMEDIES[Status(status)]
        super().__init__(f"process {pid}: {text}", remedy)
        self.status = status


class RocprofAttachFailed(CputaxError):
    """AMD's library could not attach to the server, or not let go of it."""

    slug = "rocprof-attach-failed"
    exit_code = ExitCode.PERMISSION

    def __init__(self, pid: int, text: str, status: int | None) -> None:
        remedy = "start the server through cputax instead: cputax attach -- COMMAND"
        if status is not None and status in _ATTACH_REMEDIES:
            remedy = _ATTACH_REMEDIES[RocattachStatus(status)]
        super().__init__(f"process {pid}: {text}", remedy)
        self.status = status


class RocprofNoData(CputaxError):
    """All went well, and nothing came of it."""

    slug = "rocprof-no-data"
    exit_code = ExitCode.GATE_OR_PARTIAL


class SpoolBroken(CputaxError):
    """What a traced process wrote makes no sense."""

    slug = "spool-broken"
    exit_code = ExitCode.GATE_OR_PARTIAL

    def __init__(self, pid: int, at_bytes: int) -> None:
        super().__init__(
            f"process {pid}: its GPU trace is damaged at byte {at_bytes}",
            "start the server with the cputax that records it; what came before is kept",
        )
