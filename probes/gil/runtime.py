"""Finds the GIL of a live CPython process from its PID, and says why when it cannot.

Nothing here writes to the target, stops it or attaches to it: it reads /proc/PID/maps, the ELF
files behind it and /proc/PID/mem.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from pathlib import Path
from typing import ClassVar, Final

from collectors.errors import (
    CputaxError,
    ProbeUnavailable,
    TargetExited,
    TargetForbidden,
    TargetNotFound,
    TargetNotPython,
)
from probes.gil import elf, layout, versions
from probes.gil.layout import GilLayout
from probes.procfs import Procfs

# Flags that match by chance do not stay: counters in the same place move when threads wait.
_CONDITION_READ_COUNT: Final = 20
_CONDITION_READ_INTERVAL_S: Final = 0.0005
_INTERPRETER_LIMIT: Final = 256


class GilNotApplicable(ProbeUnavailable):
    """A free-threaded build has no GIL."""

    slug: ClassVar[str] = "gil-not-applicable"


class GilUnsupported(ProbeUnavailable):
    """This interpreter's or C library's layout is not known here."""

    slug: ClassVar[str] = "gil-unsupported"


_REMEDY: Final = "record without it: cputax attach PID --no-probe gil"


def find_gil(pid: int, procfs: Procfs | None = None) -> GilLayout:
    """Find the main interpreter's GIL in process ``pid``.

    Raises:
        TargetNotFound, TargetExited: there is no such process, or it went away meanwhile.
        TargetNotPython: no CPython interpreter is mapped into it.
        TargetForbidden: the kernel refuses to let us read its memory.
        GilNotApplicable: a free-threaded build.
        GilUnsupported: a version, machine or C library whose layout is not known.
    """
    procfs = procfs or Procfs()
    try:
        stat = procfs.stat(pid)
    except ProcessLookupError as error:
        raise TargetNotFound(f"no process has PID {pid}", "see what runs: cputax ps") from error
    if stat.state in "ZX":
        raise _exited(pid)
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _Finder(pid, stat.start_ticks, memory, procfs).find()
        finally:
            os.close(memory)
    except OSError as error:
        raise _refusal(pid, error) from error


def _exited(pid: int) -> TargetExited:
    return TargetExited(f"process {pid} has exited", "see what runs: cputax ps")


def _refusal(pid: int, error: OSError) -> CputaxError:
    if error.errno in (errno.ESRCH, errno.ENOENT) and not os.path.exists(f"/proc/{pid}/maps"):
        return _exited(pid)
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    if error.errno in (errno.EACCES, errno.EPERM):
        return TargetForbidden(
            f"the kernel refuses to let us read the memory of process {pid} ({name})",
            "run as the process's user with CAP_SYS_PTRACE, or as root: sudo cputax attach PID",
        )
    return GilUnsupported(f"cannot find the GIL of process {pid} ({name})", _REMEDY)


class _Finder:
    """One search; ``memory`` is the open /proc/PID/mem."""

    def __init__(self, pid: int, start_ticks: int, memory: int, procfs: Procfs) -> None:
        self._pid = pid
        self._start_ticks = start_ticks
        self._memory = memory
        self._procfs = procfs

    def find(self) -> GilLayout:
        """Search; see `find_gil`."""
        mappings = elf.file_mappings(Path(f"/proc/{self._pid}/maps").read_text("utf-8", "replace"))
        runtime, version = self._locate_runtime(mappings)
        if elf.uses_musl(mappings):
            raise self._unsupported("it runs on musl, whose locks are laid out differently")
        offsets = self._offsets(runtime, version)
        interpreter = self._pointer(runtime + offsets.interpreters_head + 8)
        if interpreter == 0:
            raise self._unsupported("its interpreter has not started yet")
        gil = self._gil_address(runtime, interpreter, offsets)
        found = GilLayout(
            pid=self._pid,
            start_ticks=self._start_ticks,
            version=version,
            gil_address=gil,
            interpreter_address=interpreter,
            threads_head_offset=offsets.threads_head,
            next_offset=offsets.thread_next,
            thread_id_offset=offsets.thread_id,
            thread_id_is_pthread=offsets.thread_id_is_pthread,
            waiter_reference_offset=self._waiter_reference_offset(gil),
            is_namespaced=len(self._procfs.status(self._pid).inner_pids) > 1,
            own_gil_interpreter_count=self._own_gil_interpreters(runtime, gil, offsets),
            runtime_address=runtime,
        )
        self._validate(found)
        return found

    def _locate_runtime(self, mappings: list[elf.Mapping]) -> tuple[int, tuple[int, int]]:
        for path, start, file_offset in elf.python_files(self._pid, mappings):
            try:
                binary = elf.Binary(path, start, file_offset)
            except ValueError:
                continue
            with binary:
                runtime = binary.address("_PyRuntime") or binary.section_address(".PyRuntime")
                if runtime is None:
                    continue
                if binary.machine != elf.X86_64:
                    raise self._unsupported(f"layouts on {binary.machine[3:].lower()} are unknown")
                return runtime, self._version(binary, runtime)
        if not self._procfs.cmdline(self._pid) and not mappings:
            raise TargetNotPython(
                f"process {self._pid} is a kernel thread or has just exited",
                "see what runs: cputax ps",
            )
        raise TargetNotPython(
            f"process {self._pid} runs no CPython 3.10 to 3.14 that could be found",
            "name the PID of the Python process itself: cputax ps",
        )

    def _version(self, binary: elf.Binary, runtime: int) -> tuple[int, int]:
        table = versions.parse_table(self._read(runtime, versions.TABLE_BYTES))
        if table is not None:
            return table.version
        hexversion = binary.address("Py_Version")  # a constant since 3.11
        if hexversion is not None:
            return versions.parse_version(self._pointer(hexversion))
        if binary.address("Py_NewRef") is not None:  # new in 3.10
            return versions.OLDEST
        raise self._unsupported("its CPython is older than 3.10, or its version cannot be found")

    def _offsets(self, runtime: int, version: tuple[int, int]) -> versions.RuntimeOffsets:
        name = f"CPython {version[0]}.{version[1]}"
        table = versions.parse_table(self._read(runtime, versions.TABLE_BYTES))
        if table is not None and table.is_free_threaded:
            raise GilNotApplicable(
                f"not applicable: process {self._pid} runs a free-threaded {name}, without a GIL",
                _REMEDY,
            )
        if table is None and version in versions.FIXED:
            return versions.FIXED[version]
        if table is None or table.offsets is None:
            raise self._unsupported(f"{name} is not one of the known versions, 3.10 to 3.14")
        if (table.gil_locked, table.gil_holder) != (layout.LOCKED_OFFSET, layout.HOLDER_OFFSET):
            raise self._unsupported(f"the GIL of this build of {name} is laid out differently")
        return table.offsets

    def _gil_address(self, runtime: int, interpreter: int, offsets: versions.RuntimeOffsets) -> int:
        if offsets.gil is not None:
            return runtime + offsets.gil
        assert offsets.gil_pointer is not None
        return self._pointer(interpreter + offsets.gil_pointer)

    def _own_gil_interpreters(
        self, runtime: int, main_gil: int, offsets: versions.RuntimeOffsets
    ) -> int:
        if offsets.gil_pointer is None:
            return 0
        others = 0
        interpreter = self._pointer(runtime + offsets.interpreters_head)
        for _ in range(_INTERPRETER_LIMIT):
            if interpreter == 0:
                break
            others += self._pointer(interpreter + offsets.gil_pointer) != main_gil
            interpreter = self._pointer(interpreter + offsets.interpreter_next)
        return others

    def _waiter_reference_offset(self, gil: int) -> int:
        """Return where the conditions keep their waiters; 0 when that stays ambiguous."""
        candidates = set(layout.WAITER_REFERENCE_OFFSETS)
        for _ in range(_CONDITION_READ_COUNT):
            raw = self._read(gil, layout.GIL_BYTES)
            candidates = {
                offset
                for offset in candidates
                if layout.waiter_count(*layout.waiter_struct(offset).unpack_from(raw)) >= 0
            }
            if len(candidates) <= 1:
                break
            time.sleep(_CONDITION_READ_INTERVAL_S)
        return candidates.pop() if len(candidates) == 1 else 0

    def _validate(self, found: GilLayout) -> None:
        """Refuse a lock that cannot be one, rather than report noise."""
        raw = self._read(found.gil_address, layout.GIL_BYTES)
        locked = struct.unpack_from("<i", raw, layout.LOCKED_OFFSET)[0]
        holder = struct.unpack_from("<Q", raw, layout.HOLDER_OFFSET)[0]
        if locked not in (-1, 0, 1) or holder % 8:
            raise self._unsupported("what should be its GIL does not look like one")
        if self._pointer(found.interpreter_address + found.threads_head_offset) == 0:
            raise self._unsupported("its interpreter has no threads")

    def _pointer(self, address: int) -> int:
        return int.from_bytes(self._read(address, 8), "little")

    def _read(self, address: int, length: int) -> bytes:
        raw = os.pread(self._memory, length, address)
        if len(raw) != length:
            raise _exited(self._pid)
        return raw

    def _unsupported(self, reason: str) -> GilUnsupported:
        return GilUnsupported(f"the GIL of process {self._pid} cannot be read: {reason}", _REMEDY)
