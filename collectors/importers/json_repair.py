"""Mends what real writers of traces get wrong in JSON, so that one bad text costs no trace.

Known from the field: names of kernels that are no UTF-8, ratios written as ``nan`` or ``Infinity``,
Windows paths with bare backslashes, control characters inside names.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

import numpy as np

from collectors.importers.json_depth import Nesting

NOT_UTF8: Final = "characters that are no UTF-8 (replaced)"
NOT_A_NUMBER: Final = "numbers that are NaN or infinite (taken as unknown)"
NOT_IN_TEXTS: Final = "backslashes and control characters in texts (escaped)"

_NOT_A_NUMBER: Final = re.compile(rb"[-+]?\b(?:nan|inf(?:inity)?)\b", re.IGNORECASE)
_ESCAPE: Final = re.compile(rb"\\(?:([\"\\/bfnrt]|u[0-9a-fA-F]{4})|)")
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}".encode()
_FIRST_PRINTED: Final = ord(" ")


def repair(text: bytes, repaired: Counter[str]) -> bytes:
    """Return ``text`` with these defects mended; what was done is added to ``repaired``."""
    try:
        text.decode()
    except UnicodeDecodeError:
        already = text.count(_REPLACEMENT)
        text = text.decode("utf-8", "replace").encode()
        repaired[NOT_UTF8] += text.count(_REPLACEMENT) - already
    is_outside = Nesting().outside(text)
    edits = [
        (*match.span(), b"null")
        for match in _NOT_A_NUMBER.finditer(text)
        if is_outside[match.start()]
    ]
    repaired[NOT_A_NUMBER] += len(edits)
    bare = [
        (match.start(), match.end(), b"\\\\")
        for match in _ESCAPE.finditer(text)
        if match[1] is None and not is_outside[match.start()]
    ]
    is_control = (np.frombuffer(text, np.uint8) < _FIRST_PRINTED) & ~is_outside
    bare += [(at, at + 1, b"\\u%04x" % text[at]) for at in np.flatnonzero(is_control).tolist()]
    repaired[NOT_IN_TEXTS] += len(bare)
    return _edited(text, sorted(edits + bare))


def _edited(text: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Return ``text`` with these parts of it, in order, replaced."""
    parts: list[bytes] = []
    done = 0
    for start, end, new in edits:
        parts += (text[done:start], new)
        done = end
    return b"".join([*parts, text[done:]])
