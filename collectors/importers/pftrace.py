"""Read the Perfetto traces (``.pftrace``) that rocprofv3 writes.

A trace is a row of packets, each its length and a protobuf message. Times come from the notes on
each slice (``begin_ns``, ``end_ns``: CLOCK_BOOTTIME), not from the packets' clocks. rocprofv3 moves
the ends of kernels that overlap on a queue to the middle of the overlap before it writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from collectors.errors import ImportInvalid
from collectors.importers.progress import part
from collectors.importers.source import Progress, blocks
from collectors.importers.trace import Clock, Trace

FORMAT_NAME: Final = "pftrace"
MAX_PACKET_BYTES: Final = 1 << 24  # the SDK's are a few hundred bytes, 32 KiB with interned names
MOVED_TIMES: Final = (
    "rocprofv3 moved the ends of kernels that overlapped on a queue to the middle of the overlap: "
    "busy and idle are exact only where none did; rocpd, JSON and CSV output keep the times"
)

_PACKET_TAG: Final = 0x0A  # field 1 of Trace, a message
_MIN_PACKETS_SEEN: Final = 2
_MAX_VARINT_BYTES: Final = 10
_AGAIN: Final = "copy or record the file again; it must be whole"


def is_mine(path: Path, head: bytes) -> bool:
    """Tell a Perfetto trace by its first packets: each starts where the one before it ended."""
    at = seen = 0
    while at < len(head) and seen < _MIN_PACKETS_SEEN:
        length = _packet_length(head, at)
        if length is None or length[0] > MAX_PACKET_BYTES:
            return False
        # The first byte is a field's tag: none is 0 or of a wire type above 5.
        first = head[length[1] : length[1] + 1]
        if length[0] == 0 or (first and (first[0] >> 3 == 0 or first[0] & 7 > 5)):
            return False
        at = length[1] + length[0]
        seen += 1
    return seen > 0 and (seen == _MIN_PACKETS_SEEN or at == len(head))


def read(
    paths: Sequence[Path], on_progress: Progress | None = None, *, device_only: bool = False
) -> Trace:
    """Read traces, each of one process.

    Raises:
        ImportInvalid: a file is cut off, damaged, or not from rocprofv3; or the package
            ``protobuf`` is missing.
    """
    try:  # here, not above: every file is first shown to `is_mine`, and this takes a while
        from collectors.importers.pftrace_packets import PacketReader
    except ImportError as error:
        raise ImportInvalid(
            "reading Perfetto traces takes the package protobuf", "pip install 'cputax[perfetto]'"
        ) from error
    trace = Trace(FORMAT_NAME, Clock.BOOTTIME)
    trace.host["caveat"] = MOVED_TIMES
    for number, path in enumerate(paths):
        trace.begin_scope()
        reader = PacketReader(trace, device_only=device_only)
        for packet in _packets(path, part(on_progress, number, len(paths))):
            reader.take(packet)
        reader.finish()
        if not reader.has_slices:
            raise ImportInvalid(
                f"{path.name} is a Perfetto trace, but without slices of rocprofv3",
                "record with rocprofv3 --kernel-trace --output-format pftrace -- COMMAND",
            )
    return trace


def _packets(path: Path, on_progress: Progress) -> Iterator[bytes]:
    """Yield each packet's message."""
    buffer, at = b"", 0
    for block in blocks(path, on_progress=on_progress):
        buffer, at = buffer[at:] + block, 0
        while (length := _packet_length(buffer, at)) is not None:
            size, begin = length
            if size > MAX_PACKET_BYTES:
                raise ImportInvalid(f"{path.name} has a packet of {size:,} bytes", _AGAIN)
            if begin + size > len(buffer):
                break
            yield buffer[begin : begin + size]
            at = begin + size
        if at < len(buffer) and buffer[at] != _PACKET_TAG:
            raise ImportInvalid(f"{path.name} is damaged: no packet where one should be", _AGAIN)
        if len(buffer) - at > MAX_PACKET_BYTES + _MAX_VARINT_BYTES + 1:
            raise ImportInvalid(f"{path.name} is damaged: a packet without a length", _AGAIN)
    if at < len(buffer):
        raise ImportInvalid(f"{path.name} is cut off in its last packet", _AGAIN)


def _packet_length(data: bytes, at: int) -> tuple[int, int] | None:
    """Return a packet's size and where it begins, None where ``data`` has no whole header there."""
    if at >= len(data) or data[at] != _PACKET_TAG:
        return None
    size = 0
    for place, byte in enumerate(data[at + 1 : at + 1 + _MAX_VARINT_BYTES]):
        size |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return size, at + 2 + place
    return None
