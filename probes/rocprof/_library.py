"""The door to rocprofiler-sdk: load it, check its version, declare its functions, name its errors.

Which versions are trusted: 0.5 and 0.6 (ROCm 6.3, 6.4) with their own layouts, and 1.x. The layouts
of 1.0 hold up to 1.3.5 by AMD's change log; a later 1.y is used all the same, since the library's
name promises binary compatibility within 1.x, every record carries its size, and every field
that we read stood there in 1.0. Any other version is refused before a struct is touched.
Standard library only (see the package).
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_uint64
from ctypes import c_void_p as pointer
from pathlib import Path
from typing import Any, NamedTuple

from . import _abi
from ._abi import BufferId, CallbackThread, ContextId, Status

KNOWN_UP_TO = (1, 3)  # major, minor of the newest version whose layouts were compared
MAX_KINDS = 64  # there are 33 in 1.0
MAX_OPERATIONS = 1024  # HIP's runtime has 477


class SdkError(Exception):
    """A function of the library refused; ``text`` is the library's own word for it."""

    def __init__(self, function: str, status: int, name: str, text: str) -> None:
        super().__init__(f"{function}: {text or name} (status {status})")
        self.function = function
        self.status = status
        self.name = name
        self.text = text


class LibraryUnusable(Exception):
    """The file is not a rocprofiler-sdk that we can use."""


class Version(NamedTuple):
    """Of the library, not of ROCm."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def is_beyond_known(self) -> bool:
        """Whether nobody compared this version's layouts with ours."""
        return (self.major, self.minor) > KNOWN_UP_TO


class Layout(NamedTuple):
    """The structs that differ between versions."""

    callback_record: type[Any]
    client_id: type[Any]
    memory_copy: type[Any]
    hip_api: type[Any]


LAYOUT_V1 = Layout(_abi.CallbackRecord, _abi.ClientId, _abi.MemoryCopyRecord, _abi.HipApiRecord)
LAYOUT_V0 = Layout(
    _abi.CallbackRecordV0, _abi.ClientIdV0, _abi.MemoryCopyRecordV0, _abi.HipApiRecordV0
)

# A handle is passed by value, and a struct of one uint64 goes where a uint64 goes (System V ABI).
BUFFER_CALLBACK = CFUNCTYPE(None, c_uint64, c_uint64, pointer, c_size_t, pointer, c_uint64)
AGENT_CALLBACK = CFUNCTYPE(c_uint32, c_uint32, POINTER(POINTER(_abi.Agent)), c_size_t, pointer)
CONFIGURE = CFUNCTYPE(pointer, c_uint32, c_char_p, c_uint32, pointer)
INITIALIZE = CFUNCTYPE(c_int, pointer, pointer)

# The functions that we call and their arguments; all return a status.
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "rocprofiler_get_version": (POINTER(c_uint32), POINTER(c_uint32), POINTER(c_uint32)),
    "rocprofiler_force_configure": (CONFIGURE,),
    "rocprofiler_query_available_agents": (c_uint32, AGENT_CALLBACK, c_size_t, pointer),
    "rocprofiler_create_context": (POINTER(ContextId),),
    "rocprofiler_start_context": (ContextId,),
    "rocprofiler_stop_context": (ContextId,),
    "rocprofiler_create_buffer": (
        ContextId, c_size_t, c_size_t, c_uint32, BUFFER_CALLBACK, pointer, POINTER(BufferId),
    ),
    "rocprofiler_flush_buffer": (BufferId,),
    "rocprofiler_create_callback_thread": (POINTER(CallbackThread),),
    "rocprofiler_assign_callback_thread": (BufferId, CallbackThread),
    "rocprofiler_configure_buffer_tracing_service": (
        ContextId, c_uint32, POINTER(c_int32), c_size_t, BufferId,
    ),
    "rocprofiler_configure_callback_tracing_service": (
        ContextId, c_uint32, POINTER(c_int32), c_size_t, pointer, pointer,
    ),
    "rocprofiler_query_buffer_tracing_kind_name": (
        c_uint32, POINTER(c_char_p), POINTER(c_uint64),
    ),
    "rocprofiler_query_buffer_tracing_kind_operation_name": (
        c_uint32, c_int32, POINTER(c_char_p), POINTER(c_uint64),
    ),
}  # fmt: skip
STATUS_TEXTS = ("rocprofiler_get_status_name", "rocprofiler_get_status_string")


def layout_of(version: Version) -> Layout:
    """Return the structs of this version.

    Raises:
        LibraryUnusable: nobody knows them.
    """
    if version.major == 1:
        return LAYOUT_V1
    if version[:2] in ((0, 5), (0, 6)):
        return LAYOUT_V0
    raise LibraryUnusable(f"version {version} of rocprofiler-sdk has an unknown layout")


def code_object_callback(layout: Layout) -> type[Any]:
    """Return the type of the callback that learns kernels' names."""
    return CFUNCTYPE(None, layout.callback_record, POINTER(c_uint64), pointer)


class Library:
    """A loaded rocprofiler-sdk of a known version."""

    def __init__(self, path: Path) -> None:
        """Load it, for this process's use only: a global one clashes with Triton's symbols.

        Raises:
            LibraryUnusable: it cannot be loaded, lacks a function or is of an unknown version.
        """
        self.path = path
        try:
            # Never PyDLL: its calls keep the GIL, and a flush waits for a callback that needs it.
            self._library = ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
            for name, arguments in FUNCTIONS.items():
                function = getattr(self._library, name)
                function.argtypes, function.restype = arguments, c_uint32
            for name in STATUS_TEXTS:
                function = getattr(self._library, name)
                function.argtypes, function.restype = (c_uint32,), c_char_p
        except (OSError, AttributeError) as error:
            raise LibraryUnusable(f"{path} cannot be used: {error}") from error
        numbers = [c_uint32() for _ in range(3)]
        self.call("rocprofiler_get_version", *map(ctypes.byref, numbers))
        self.version = Version(*(number.value for number in numbers))
        self.layout = layout_of(self.version)

    def call(self, function: str, *arguments: object) -> None:
        """Call a function of `FUNCTIONS`.

        Raises:
            SdkError: it returned another status than success.
        """
        status = getattr(self._library, function)(*arguments)
        if status != Status.SUCCESS:
            texts = (getattr(self._library, of)(status) or b"" for of in STATUS_TEXTS)
            raise SdkError(function, status, *(text.decode("utf-8", "replace") for text in texts))

    def buffer_kinds(self) -> dict[str, int]:
        """Return the numbers of the kinds of records, asked by name: numbers have moved."""
        ask = "rocprofiler_query_buffer_tracing_kind_name"
        names = {self._name(ask, kind): kind for kind in range(MAX_KINDS)}
        return {name: kind for name, kind in names.items() if name is not None}

    def operation_names(self, kind: int) -> dict[int, str]:
        """Return the names of a kind's operations by number, such as those of HIP's calls."""
        ask = "rocprofiler_query_buffer_tracing_kind_operation_name"
        names = {number: self._name(ask, kind, number) for number in range(MAX_OPERATIONS)}
        return {number: name for number, name in names.items() if name is not None}

    def _name(self, function: str, *which: int) -> str | None:
        name, length = c_char_p(), c_uint64()
        try:
            self.call(function, *which, ctypes.byref(name), ctypes.byref(length))
        except SdkError:
            return None
        return (name.value or b"").decode("utf-8", "replace")
