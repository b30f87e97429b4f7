"""Where JSON's texts and brackets stand, and how deep these nest: by arrays, not byte by byte."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")
_STEP: Final = np.zeros(256, np.int8)
_STEP[[ord("{"), ord("[")]] = 1
_STEP[[ord("}"), ord("]")]] = -1


class Nesting:
    """Follows one document over consecutive pieces, cut anywhere."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_text = False
        self._is_escaped = False  # the next byte stands after a lone backslash

    def feed(self, piece: bytes) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Return where brackets stand outside texts, and the depth after each of them.

        Depth counts from where this object began to look; it is negative after the closing bracket
        of what was open there.
        """
        steps = _STEP[np.frombuffer(piece, np.uint8)]
        at = np.flatnonzero((steps != 0) & self.outside(piece))
        depths = np.cumsum(steps[at], dtype=np.int64) + self._depth
        if len(depths):
            self._depth = int(depths[-1])
        return at, depths

    def outside(self, piece: bytes) -> NDArray[np.bool_]:
        """Return for each byte whether it is outside texts; their closing quotes are."""
        codes = np.frombuffer(piece, np.uint8)
        is_quote = codes == _QUOTE
        if len(codes) and (self._is_escaped or b"\\" in piece):
            self._drop_escaped(codes, is_quote)
        # Odd from an opening quote up to its closing one.
        is_outside: NDArray[np.bool_] = np.bitwise_xor.accumulate(is_quote) == self._is_in_text
        if len(codes):
            self._is_in_text = not is_outside[-1]
        return is_outside

    def _drop_escaped(self, codes: NDArray[np.uint8], is_quote: NDArray[np.bool_]) -> None:
        """Unmark quotes after an odd number of backslashes."""
        slashes = np.flatnonzero(codes == _BACKSLASH)
        if self._is_escaped:
            is_quote[0] = False
            slashes = slashes[slashes > 0]  # the first byte, if it is one, escapes nothing
        is_first = np.diff(slashes, prepend=-2) > 1
        run_start = np.maximum.accumulate(np.where(is_first, slashes, 0))
        escaped = slashes[(slashes - run_start) % 2 == 0] + 1
        self._is_escaped = bool(len(escaped)) and int(escaped[-1]) == len(codes)
        is_quote[escaped[escaped < len(codes)]] = False
