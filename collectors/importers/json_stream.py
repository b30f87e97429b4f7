"""A cursor over a JSON document of any size that arrives in blocks.

Objects and arrays are entered member by member; a long array of objects is decoded by msgspec a
block at a time into typed structs. What no struct asks for is skipped without being built.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import numpy as np

from collectors.errors import ImportInvalid
from collectors.importers.json_depth import Nesting
from collectors.importers.json_elements import Elements
from collectors.importers.json_repair import repair

MAX_VALUE_BYTES: Final = 1 << 25  # of one element or value that is decoded as a whole
MAX_MEMBER_COUNT: Final = 1 << 14  # of an object or array that is entered member by member
MAX_KEY_BYTES: Final = 1 << 12
_FIRST_LOOK_BYTES: Final = 1 << 12  # most values of a header are short
_TAIL_BYTES: Final = 1 << 14  # of a block's end, in which a border between elements is guessed
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR: Final = re.compile(rb"[^ \t\r\n,\]}]*")
_BORDER: Final = re.compile(rb"\}[ \t\r\n]*(?=,[ \t\r\n]*\{)")
_RECORD_AGAIN: Final = "record the trace again, and let the tool finish writing it"

T = TypeVar("T")


class JsonStream:
    """Where a reader stands in a document. Every method begins at what comes next, spaces apart.

    Raises:
        ImportInvalid: from any method: the document ends too early, or is not JSON.
    """

    def __init__(self, path: Path, blocks: Iterator[bytes]) -> None:
        """Begin; ``path`` is for messages only."""
        self.repaired: Counter[str] = Counter()  # by reason
        self._path = path
        self._blocks = blocks
        self._buffer = b""
        self._at = 0
        self._passed_bytes = 0  # of the document, before the buffer

    def peek(self) -> bytes:
        """Return the next byte that is no space."""
        while True:
            match = _SPACE.match(self._buffer, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at : self._at + 1]
            if not self._fill():
                raise self._cut_off()

    def members(self) -> Iterator[str]:
        """Yield the keys of the object that comes; after each its value must be read or skipped."""
        self._take(b"{")
        if self.peek() == b"}":
            self._at += 1
            return
        for _ in range(MAX_MEMBER_COUNT):
            key = self._key()
            self._take(b":")
            yield key
            if self._take(b",", b"}") == b"}":
                return
        raise self._too_many()

    def items(self) -> Iterator[None]:
        """Yield at each element of the array that comes, which must then be read or skipped."""
        self._take(b"[")
        if self.peek() == b"]":
            self._at += 1
            return
        for _ in range(MAX_MEMBER_COUNT):
            yield
            if self._take(b",", b"]") == b"]":
                return
        raise self._too_many()

    def chunks(self, elements: Elements[T]) -> Iterator[list[T]]:
        """Yield the elements of the array of objects that comes, many at a time.

        What ends with a brace before a comma and another brace is taken for a whole number of
        elements. If it decodes as an array it was: it began at an element, and JSON reads the same
        from left to right whatever follows. If not (such a border may stand inside a text or an
        inner array, or the array ended before it), the brackets are counted.
        """
        self._take(b"[")
        if self.peek() == b"]":
            self._at += 1
            return
        while True:
            self._fill()
            found = self._guessed_chunk(elements)
            yield self._counted_chunk(elements) if found is None else found
            if self._take(b",", b"]") == b"]":
                return

    def value(self) -> bytes:
        """Return the value that comes, undecoded."""
        first = self.peek()
        if first in b"{[":
            end = self._value_end()
        else:
            end = self._token_end(_STRING if first == b'"' else _SCALAR, MAX_VALUE_BYTES)
        found = self._buffer[self._at : end]
        self._at = end
        return found

    def skip(self) -> None:
        """Pass over the value that comes, however long it is."""
        if self.peek() not in b"{[":
            self.value()
            return
        nesting = Nesting()
        look_bytes = _FIRST_LOOK_BYTES
        while True:
            piece = self._buffer[self._at : self._at + look_bytes]
            at, depths = nesting.feed(piece)
            ends = np.flatnonzero(depths == 0)
            if len(ends):
                self._at += int(at[ends[0]]) + 1
                return
            self._at += len(piece)
            look_bytes *= 2
            if self._at == len(self._buffer) and not self._fill():
                raise self._cut_off()

    def end(self) -> None:
        """Read the rest of the document, which must be spaces: damage may show at its very end."""
        while True:
            match = _SPACE.match(self._buffer, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._buffer):
                raise self._wrong()
            if not self._fill():
                return

    def _fill(self) -> bool:
        """Take another block behind what is left; tell whether there was one."""
        block = next(self._blocks, b"")
        self._passed_bytes += self._at
        self._buffer = self._buffer[self._at :] + block
        self._at = 0
        return bool(block)

    def _take(self, *wanted: bytes) -> bytes:
        found = self.peek()
        if found not in wanted:
            raise self._wrong()
        self._at += 1
        return found

    def _key(self) -> str:
        if self.peek() != b'"':
            raise self._wrong()
        end = self._token_end(_STRING, MAX_KEY_BYTES)
        text = self._buffer[self._at : end]
        self._at = end
        try:
            return msgspec.json.decode(text, type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return text.decode("utf-8", "replace")  # nobody asks for such a key

    def _token_end(self, token: re.Pattern[bytes], max_bytes: int) -> int:
        """Return where the string or the number that comes ends; the buffer may grow."""
        while True:
            match = token.match(self._buffer, self._at)
            if match and self._at == match.end():
                raise self._wrong()
            if match and match.end() < len(self._buffer):
                return match.end()
            size = len(self._buffer) - self._at
            if size > max_bytes:
                raise self._too_long(max_bytes)
            while len(self._buffer) - self._at < 2 * size and self._fill():
                pass  # twice as much: all looks together cost twice the last
            if len(self._buffer) - self._at == size:
                raise self._cut_off()

    def _value_end(self) -> int:
        """Return where the object or array that comes ends; the buffer may grow."""
        nesting = Nesting()
        seen_bytes = 0
        look_bytes = _FIRST_LOOK_BYTES
        while True:
            piece = self._buffer[self._at + seen_bytes : self._at + seen_bytes + look_bytes]
            at, depths = nesting.feed(piece)
            ends = np.flatnonzero(depths == 0)
            if len(ends):
                return self._at + seen_bytes + int(at[ends[0]]) + 1
            seen_bytes += len(piece)
            look_bytes *= 2
            self._see_more(seen_bytes)

    def _elements_end(self) -> int:
        """Return where the last whole element ends, or else the array in which this place is."""
        nesting = Nesting()
        seen_bytes = 0
        while True:
            piece = self._buffer[self._at + seen_bytes :]
            at, depths = nesting.feed(piece)
            closed = np.flatnonzero(depths < 0)
            if len(closed):
                return self._at + seen_bytes + int(at[closed[0]])
            ends = np.flatnonzero(depths == 0)
            if len(ends):
                return self._at + seen_bytes + int(at[ends[-1]]) + 1
            seen_bytes += len(piece)
            self._see_more(seen_bytes)

    def _see_more(self, seen_bytes: int) -> None:
        if seen_bytes > MAX_VALUE_BYTES:
            raise self._too_long(MAX_VALUE_BYTES)
        if self._at + seen_bytes == len(self._buffer) and not self._fill():
            raise self._cut_off()

    def _guessed_chunk(self, elements: Elements[T]) -> list[T] | None:
        tail = max(self._at, len(self._buffer) - _TAIL_BYTES)
        end = None
        for border in _BORDER.finditer(self._buffer, tail):
            end = border.end()
        if end is None:
            return None
        found = elements.decode(self._array(end), self.repaired)
        if found is not None:
            self._at = end
        return found

    def _counted_chunk(self, elements: Elements[T]) -> list[T]:
        end = self._elements_end()
        if end == self._at:
            raise self._wrong()
        array = self._array(end)
        found = elements.decode(array, self.repaired)
        if found is None:
            found = elements.decode(repair(array, self.repaired), self.repaired)
        if found is None:
            raise self._wrong()
        self._at = end
        return found

    def _array(self, end: int) -> bytes:
        return b"".join((b"[", memoryview(self._buffer)[self._at : end], b"]"))

    def _too_long(self, max_bytes: int) -> ImportInvalid:
        position = self._passed_bytes + self._at
        return ImportInvalid(
            f"{self._path} has one value of over {max_bytes:,} bytes at byte {position:,}",
            _RECORD_AGAIN,
        )

    def _too_many(self) -> ImportInvalid:
        return ImportInvalid(
            f"{self._path} has more than {MAX_MEMBER_COUNT:,} members in one object or list",
            _RECORD_AGAIN,
        )

    def _cut_off(self) -> ImportInvalid:
        return ImportInvalid(f"{self._path} is cut off: its JSON has no end", _RECORD_AGAIN)

    def _wrong(self) -> ImportInvalid:
        position = self._passed_bytes + self._at
        return ImportInvalid(
            f"{self._path} is not JSON at byte {position:,} or soon after", _RECORD_AGAIN
        )
