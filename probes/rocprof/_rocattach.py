"""AMD's attacher library, of ROCm 7.13 and later or of 7.1 and 7.2. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_uint32
from pathlib import Path

from ._abi import RocattachStatus
from ._library import LibraryUnusable, SdkError


class Rocattach:
    """`librocprofiler-sdk-rocattach`: its functions return a status that it has words for."""

    def __init__(self, path: Path) -> None:
        """Load it.

        Raises:
            LibraryUnusable: it cannot be loaded, or lacks a function.
        """
        try:
            # CDLL: the GIL is free during a call, so that a watchdog thread can run.
            self._library = ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
            for name in ("rocattach_attach", "rocattach_detach"):
                _declare(self._library, name)
            for name in ("rocattach_get_status_name", "rocattach_get_status_string"):
                function = getattr(self._library, name)
                function.argtypes, function.restype = (c_int,), c_char_p
        except (OSError, AttributeError) as error:
            raise LibraryUnusable(f"{path} cannot be used: {error}") from error
        try:  # not in the first 7.13 releases
            for name in ("rocattach_attach_tree", "rocattach_detach_tree"):
                _declare(self._library, name)
            self._has_trees = True
        except AttributeError:
            self._has_trees = False

    def attach(self, pids: Sequence[int]) -> None:
        """Attach to these processes: one, or a whole tree with its root first; all or none.

        Raises:
            SdkError: it was refused.
        """
        if self._is_tree(pids):
            try:
                self._call("rocattach_attach_tree", pids[0])
            except SdkError:  # it attached to the others all the same
                with contextlib.suppress(SdkError):
                    self._call("rocattach_detach_tree", pids[0])
                raise
            return
        for done, pid in enumerate(pids):
            try:
                self._call("rocattach_attach", pid)
            except SdkError:
                for other in reversed(pids[:done]):
                    with contextlib.suppress(SdkError):
                        self._call("rocattach_detach", other)
                raise

    def detach(self, pids: Sequence[int]) -> None:
        """Detach, from the thread that attached; from all, even when one is refused.

        Raises:
            SdkError: one was refused.
        """
        if self._is_tree(pids):
            self._call("rocattach_detach_tree", pids[0])
            return
        problem: SdkError | None = None
        for pid in reversed(pids):
            try:
                self._call("rocattach_detach", pid)
            except SdkError as error:
                problem = error
        if problem is not None:
            raise problem

    def _is_tree(self, pids: Sequence[int]) -> bool:
        return len(pids) > 1 and self._has_trees

    def _call(self, function: str, pid: int) -> None:
        status = getattr(self._library, function)(pid)
        if status != RocattachStatus.SUCCESS:
            name = self._library.rocattach_get_status_name(status) or b""
            text = self._library.rocattach_get_status_string(status) or b""
            raise SdkError(function, status, name.decode(), text.decode("utf-8", "replace"))


class OldAttach:
    """`librocprofv3-attach`: what it returns means nothing (void in 7.1), so the data must tell."""

    def __init__(self, path: Path) -> None:
        """Load it.

        Raises:
            LibraryUnusable: it cannot be loaded, or lacks a function.
        """
        try:
            library = ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
            self._attach, self._detach = library.attach, library.detach
        except (OSError, AttributeError) as error:
            raise LibraryUnusable(f"{path} cannot be used: {error}") from error
        self._attach.argtypes, self._attach.restype = (c_uint32,), c_int
        self._detach.argtypes, self._detach.restype = (), c_int

    def attach(self, pids: Sequence[int]) -> None:
        """Attach to one process; this library knows no more."""
        (pid,) = pids
        self._attach(pid)

    def detach(self, pids: Sequence[int]) -> None:
        """Detach from it."""
        assert len(pids) == 1
        self._detach()


def _declare(library: ctypes.CDLL, name: str) -> None:
    function = getattr(library, name)
    function.argtypes, function.restype = (c_int,), c_int
