"""Append-only Arrow IPC streams that survive a kill at any instant.

Every batch reaches the kernel in one append, so a killed writer leaves whole batches and at most
one torn one; the reader stops at the tear. See
https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format for the framing.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa


class StreamWriter:
    """Appends record batches of one schema to a file; nothing is buffered here."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._good_bytes = 0
        self._append(memoryview(schema.serialize()))

    def write(self, batch: pa.RecordBatch) -> None:
        """Append ``batch``.

        Raises:
            OSError: it could not be written whole; the file is as before.
        """
        self._append(memoryview(batch.serialize()))

    def _append(self, message: memoryview) -> None:
        try:
            rest = message
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, self._good_bytes)
            os.lseek(self._file, self._good_bytes, os.SEEK_SET)
            raise
        self._good_bytes += len(message)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_stream(path: Path, schema: pa.Schema) -> tuple[pa.Table, bool]:
    """Read every whole batch of the stream at ``path``; True if it ended in a torn one.

    A stream without even a whole schema is an empty table.
    """
    batches: list[pa.RecordBatch] = []
    torn = False
    try:
        with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as reader:
            while True:
                batches.append(reader.read_next_batch())
    except StopIteration:
        pass
    except (pa.ArrowInvalid, OSError):
        torn = True
    return pa.Table.from_batches(batches, schema=batches[0].schema if batches else schema), torn
