"""Readable names of C++ kernels, by the C++ library that is installed everywhere Python is."""

from __future__ import annotations

import ctypes
from typing import Any, Final

_SUFFIX: Final = ".kd"  # AMD's linker puts it to the name of a kernel's descriptor


class Demangler:
    """Turns ``_Z4gemmv.kd`` into ``gemm()``; a name that is not mangled stays as it is."""

    def __init__(self) -> None:
        """Load libstdc++; without it only the suffix is taken off."""
        self._demangle: Any = None
        try:
            demangle = ctypes.CDLL("libstdc++.so.6")["__cxa_demangle"]
        except (OSError, AttributeError):
            return
        # Itanium C++ ABI, 3.4 Demangler API: the result is to be freed.
        demangle.argtypes = (
            ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int),
        )  # fmt: skip
        demangle.restype = ctypes.c_void_p
        self._demangle = demangle
        self._free = ctypes.CDLL(None).free
        self._free.argtypes = (ctypes.c_void_p,)

    def readable(self, name: str) -> str:
        """Return the name as it stands in the source."""
        name = name.removesuffix(_SUFFIX)
        if self._demangle is None or not name.startswith("_Z"):
            return name
        found = self._demangle(name.encode(), None, None, ctypes.byref(ctypes.c_int()))
        if not found:
            return name
        try:
            return ctypes.string_at(found).decode("utf-8", "replace")
        finally:
            self._free(found)
