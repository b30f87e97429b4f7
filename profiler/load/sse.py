"""Server-sent events, parsed as the bytes come; events may be split over chunks or share them.

Follows https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream for
the one field that matters here, ``data``; a last event without its blank line is dropped.
"""

from __future__ import annotations

from typing import Final

from profiler.load.failures import Failure, RequestFailed

# An event of a chat holds a token or a few. A server that never ends a line must not fill memory.
MAX_EVENT_BYTES: Final = 16 << 20
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class EventStream:
    """Turns chunks of bytes into the data of whole events."""

    def __init__(self) -> None:
        self._rest = b""  # of a line that has not ended yet
        self._data: list[bytes] = []  # of an event that has not ended yet
        self._event_bytes = 0
        self._is_first_line = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of each event that ``chunk`` completes.

        Raises:
            RequestFailed: an event is larger than `MAX_EVENT_BYTES`.
        """
        lines = (self._rest + chunk).splitlines(keepends=True)
        # The last line may go on in the next chunk; so may its end: a CR whose LF is still to come.
        is_open = bool(lines) and not lines[-1].endswith(b"\n")
        self._rest = lines.pop() if is_open else b""
        if self._event_bytes + len(self._rest) > MAX_EVENT_BYTES:
            raise RequestFailed(Failure.MALFORMED, "an event without end")
        return self._take(lines)

    def close(self) -> list[bytes]:
        """Return the event that was only waiting for the LF of its last line's end, if there is."""
        lines = [self._rest] if self._rest.endswith(b"\r") else []
        self._rest = b""
        return self._take(lines)

    def _take(self, lines: list[bytes]) -> list[bytes]:
        events = []
        for ended_line in lines:
            line = ended_line.rstrip(b"\r\n")
            if self._is_first_line:
                line = line.removeprefix(_BYTE_ORDER_MARK)
                self._is_first_line = False
            if line:
                self._event_bytes += len(line)
                self._take_field(line)
            else:
                if self._data:
                    events.append(b"\n".join(self._data))
                self._data = []
                self._event_bytes = 0
        return events

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
