"""How the three processes talk: a JSON header and raw bytes, each after its length."""

from __future__ import annotations

import json
import select
import socket
import struct
from array import array
from typing import Any, Final, NamedTuple

from profiler.oracle.stages import Stage
from profiler.oracle.truth.ledger import staged
from profiler.oracle.truth.timed import wait_readable

_LENGTHS: Final = struct.Struct("!II")  # header bytes, payload bytes
_RECEIVE_BYTES: Final = 1 << 18
_BUFFER_BYTES: Final = 4 << 20


class Frame(NamedTuple):
    """One message; ``payload`` holds token ids (`tokens_to_bytes`) or nothing."""

    header: dict[str, Any]
    payload: bytes


class ChannelClosed(Exception):
    """The other process has closed its end: it exits or has crashed."""


class Channel:
    """One end of a socket pair that carries frames one way."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        # The kernel caps this at net.core.[rw]mem_max; a full buffer only makes the sender wait.
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        self.socket = sock
        self.buffer = bytearray()
        # Read into memory that is there already: a new object for each read would be made inside
        # the call that is booked as released, with the GIL held.
        self.landing = memoryview(bytearray(_RECEIVE_BYTES))
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)

    def wait_frames(self) -> list[Frame]:
        """Wait for at least one frame. Raises `ChannelClosed`."""
        while True:
            wait_readable(self._poller)
            frames = receive_frames(self)
            if frames:
                return frames


@staged(Stage.IPC_SEND)
def send_frame(channel: Channel, header: dict[str, Any], payload: bytes = b"") -> None:
    """Send one frame; waits while the receiver's buffer is full. Raises `ChannelClosed`."""
    head = json.dumps(header, separators=(",", ":")).encode()
    try:
        channel.socket.sendall(_LENGTHS.pack(len(head), len(payload)) + head + payload)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise ChannelClosed from error


@staged(Stage.IPC_RECV)
def receive_frames(channel: Channel) -> list[Frame]:
    """Read once and return the frames that are whole by now. Raises `ChannelClosed`."""
    try:
        received_bytes = channel.socket.recv_into(channel.landing)
    except ConnectionResetError:
        received_bytes = 0
    if not received_bytes:
        raise ChannelClosed
    buffer = channel.buffer
    buffer += channel.landing[:received_bytes]
    frames = []
    start = 0
    while len(buffer) - start >= _LENGTHS.size:
        head_bytes, payload_bytes = _LENGTHS.unpack_from(buffer, start)
        head_start = start + _LENGTHS.size
        payload_start = head_start + head_bytes
        end = payload_start + payload_bytes
        if len(buffer) < end:
            break
        header = json.loads(buffer[head_start:payload_start])
        frames.append(Frame(header, bytes(buffer[payload_start:end])))
        start = end
    del buffer[:start]
    return frames


def tokens_to_bytes(token_ids: list[int]) -> bytes:
    """Token ids as unsigned 32-bit numbers in the machine's byte order."""
    return array("I", token_ids).tobytes()


def tokens_from_bytes(payload: bytes) -> array[int]:
    """The reverse of `tokens_to_bytes`."""
    return array("I", payload)
