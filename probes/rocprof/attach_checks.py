"""What would make an attach fail, or seem to work and bring nothing: looked at before touching.

Each check reads /proc and returns what it found in the way, or None. What a server must be is in
AMD's documentation of process attachment and in docs/rocprof.md.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from probes.gil.elf import Binary, Mapping, file_mappings
from probes.procfs import Procfs

LISTENER: Final = "rocp-bg-attach"  # the thread that waits for an attacher, from ROCm 7.13 on
VARIABLE: Final = "ROCP_TOOL_ATTACH"
TRUE: Final = frozenset({"1", "true", "on", "yes"})
CAP_SYS_PTRACE: Final = 19  # linux/capability.h
_RUNTIME: Final = re.compile(r"/libhsa-runtime64[.-]")
_HELPER: Final = re.compile(r"/librocprofiler-sdk-attach\.so")
_REGISTER: Final = re.compile(r"/librocprofiler-register\.so")
_AMD: Final = re.compile(r"/librocprof[^/]*$")
_LIBRARY: Final = re.compile(r"\.so(\.[0-9.]+)?$")
_LIKELY: Final = ("libtorch_cpu", "libkineto", "libtorch")
_START: Final = f"start the server with {VARIABLE}=1, or through cputax: cputax attach -- COMMAND"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something in the way, with what to do about it."""

    reason: str
    remedy: str


def uses_rocm(procfs: Procfs, pid: int) -> bool:
    """Whether the process has AMD's runtime loaded."""
    return any(_RUNTIME.search(one.path) for one in mappings(procfs, pid))


def mappings(procfs: Procfs, pid: int) -> list[Mapping]:
    """Return what files are mapped; none when the process is gone or not ours to look at."""
    try:
        return file_mappings((procfs.root / str(pid) / "maps").read_text(errors="replace"))
    except OSError:
        return []


def find_obstacle(
    procfs: Procfs, pid: int, attacher: Path, *, is_old: bool
) -> Obstacle | None:  # fmt: skip
    """Return the first thing in the way of an attach to ``pid``.

    Args:
        procfs: of the host.
        pid: of the process.
        attacher: AMD's library that would attach.
        is_old: it is that of ROCm 7.1 or 7.2.
    """
    return (
        check_namespace(procfs, pid)
        or check_ptrace(procfs, pid)
        or check_listener(procfs, pid, is_old=is_old)
        or check_tracer(procfs, pid, is_old=is_old)
        or check_register(procfs, pid, attacher)
    )


def check_namespace(procfs: Procfs, pid: int) -> Obstacle | None:
    """The attacher looks the process up by a PID that both must share."""
    own, theirs = procfs.pid_namespace(), procfs.pid_namespace(pid)
    if theirs is None or own == theirs:  # where we may not look, `check_ptrace` says why
        return None
    return Obstacle(
        f"process {pid} is in another PID namespace (a container)",
        "run cputax inside it: docker exec CONTAINER cputax attach PID, where the container was "
        "started with --cap-add=SYS_PTRACE",
    )


def check_ptrace(procfs: Procfs, pid: int) -> Obstacle | None:
    """The kernel's rules: the same user or CAP_SYS_PTRACE, and yama's ptrace_scope."""
    scope = _scope(procfs)
    if scope == 3:
        return Obstacle(
            "kernel.yama.ptrace_scope is 3: nobody may attach to any process",
            "reboot without it; until then: cputax attach -- COMMAND",
        )
    if _has_capability(procfs, CAP_SYS_PTRACE):
        return None
    root = f"sudo $(command -v cputax) attach {pid}"
    if _uid(procfs, "self") != _uid(procfs, pid):
        return Obstacle(f"process {pid} belongs to another user", root)
    if scope > 0:
        return Obstacle(
            f"kernel.yama.ptrace_scope is {scope}, and cputax has no CAP_SYS_PTRACE",
            f"{root}, or: sudo sysctl kernel.yama.ptrace_scope=0; in a container: "
            "docker run --cap-add=SYS_PTRACE",
        )
    return None


def check_listener(procfs: Procfs, pid: int, *, is_old: bool) -> Obstacle | None:
    """Somebody in the process must wait for us; if nobody does, say what kept it from that."""
    if is_old:
        # Without it the old attacher says that all went well, and writes nothing.
        if any(_HELPER.search(one.path) for one in mappings(procfs, pid)):
            return None
        missing = "librocprofiler-sdk-attach.so is not loaded"
    else:
        if listener_tid(procfs, pid) is not None:
            return None
        missing = f"it has no thread {LISTENER}"
    if not is_prepared(procfs, pid):
        return Obstacle(
            f"process {pid} was not started with {VARIABLE}=1 ({missing})",
            f"{_START}. Beware: vLLM was reported to hang with that variable (vLLM issue 34205)",
        )
    shadow = shadowing_library(procfs, pid)
    if shadow is not None:
        return Obstacle(
            f"{shadow} exports rocprofiler_configure, so that ROCm (up to 10.0) takes process "
            f"{pid} for one that is traced already, and does not listen ({missing})",
            "start the server through cputax: cputax attach -- COMMAND; or with LD_PRELOAD="
            "librocprofiler-register.so, which a user reported to help",
        )
    return Obstacle(
        f"process {pid} has {VARIABLE}=1, but {missing}",
        "its ROCm is older than the attacher found here, or it has not used the GPU yet: send it "
        "a request, or set ROCM_PATH to the ROCm that it runs on",
    )


def check_tracer(procfs: Procfs, pid: int, *, is_old: bool) -> Obstacle | None:
    """A thread has one tracer at a time: another attach, or a debugger."""
    tid = pid if is_old else listener_tid(procfs, pid)
    tracer = _status_field(procfs, f"{pid}/task/{tid}/status", "TracerPid")
    if tracer in (None, "0"):
        return None
    return Obstacle(
        f"process {tracer} is attached to process {pid} already",
        "end that first: another cputax, rocprofv3 --attach, or a debugger",
    )


def check_register(procfs: Procfs, pid: int, attacher: Path) -> Obstacle | None:
    """Up to 7.14 the attacher computes addresses from its own copy of librocprofiler-register."""
    theirs = register_path(procfs, pid)
    if theirs is None:
        return None
    inside = Path(f"{procfs.root}/{pid}/root{theirs}")
    if not _is_same(inside, Path(theirs)):
        return Obstacle(
            f"process {pid} uses a ROCm that cputax does not see ({theirs})",
            "run cputax where the server runs: in its container, with its file system",
        )
    own = attacher.parent / Path(theirs).name
    if own.exists() and not _is_same(inside, own):
        return Obstacle(
            f"{attacher} is of another ROCm than process {pid} runs on ({theirs})",
            "set ROCM_PATH to the ROCm that the server runs on; where torch brings its own, start "
            "the server through cputax: cputax attach -- COMMAND",
        )
    return None


def listener_tid(procfs: Procfs, pid: int) -> int | None:
    """Return the thread that waits for an attacher."""
    with contextlib.suppress(OSError):
        for tid in procfs.tids(pid):
            with contextlib.suppress(OSError):
                if procfs.stat(pid, tid).comm == LISTENER:
                    return tid
    return None


def is_prepared(procfs: Procfs, pid: int) -> bool:
    """Whether the process was started to be attached to. No other variable is looked at."""
    try:
        environ = (procfs.root / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    prefix = f"{VARIABLE}=".encode()
    values = [one[len(prefix) :] for one in environ.split(b"\0") if one.startswith(prefix)]
    return bool(values) and values[0].decode("utf-8", "replace").lower() in TRUE


def register_path(procfs: Procfs, pid: int) -> str | None:
    """Return the path of the process's librocprofiler-register, as the process sees it."""
    paths = (one.path for one in mappings(procfs, pid))
    return next((path for path in paths if _REGISTER.search(path)), None)


def shadowing_library(procfs: Procfs, pid: int) -> str | None:
    """Return the name of a library, not AMD's, that exports ``rocprofiler_configure``."""
    first = {one.path: one for one in reversed(mappings(procfs, pid)) if _is_candidate(one.path)}
    likely = sorted(first, key=lambda path: not Path(path).name.startswith(_LIKELY))
    for path in likely:
        where = Path(f"{procfs.root}/{pid}/root{path}")
        with (
            contextlib.suppress(OSError, ValueError),
            Binary(where, first[path].start, first[path].file_offset) as binary,
        ):
            if binary.address("rocprofiler_configure") is not None:
                return Path(path).name
    return None


def _is_same(one: Path, other: Path) -> bool:
    """Whether both paths lead to one file."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _is_candidate(path: str) -> bool:
    return bool(_LIBRARY.search(path)) and not _AMD.search(path)


def _scope(procfs: Procfs) -> int:
    try:
        return int((procfs.root / "sys/kernel/yama/ptrace_scope").read_text())
    except (OSError, ValueError):  # a kernel without yama
        return 0


def _has_capability(procfs: Procfs, number: int) -> bool:
    effective = _status_field(procfs, "self/status", "CapEff")
    return effective is not None and bool(int(effective, 16) >> number & 1)


def _uid(procfs: Procfs, pid: int | str) -> str | None:
    return _status_field(procfs, f"{pid}/status", "Uid")


def _status_field(procfs: Procfs, path: str, field: str) -> str | None:
    """Return the first word of a field of a status file (proc(5)), or None."""
    try:
        text = (procfs.root / path).read_text(errors="replace")
    except OSError:
        return None
    return next(_words_of(text, field), None)


def _words_of(text: str, field: str) -> Iterator[str]:
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            yield from rest.split()[:1]
