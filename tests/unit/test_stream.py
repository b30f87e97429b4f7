"""A stream survives being cut anywhere: whole batches before the cut are read, nothing else."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pyarrow as pa
import pytest

from collectors.stream import StreamWriter, read_stream

SCHEMA = pa.schema(
    [
        pa.field("time_ns", pa.int64(), nullable=False),
        pa.field("name", pa.utf8()),
        pa.field("waiters", pa.list_(pa.int32())),
    ]
)


def batch(first: int, count: int) -> pa.RecordBatch:
    numbers = range(first, first + count)
    return pa.RecordBatch.from_pylist(
        [
            {"time_ns": n, "name": None if n % 3 else f"n{n}", "waiters": [n] * (n % 4)}
            for n in numbers
        ],
        schema=SCHEMA,
    )


@pytest.fixture
def stream(tmp_path: Path) -> tuple[Path, list[int], list[int]]:
    """Return a stream, and after how many bytes it has how many rows."""
    path = tmp_path / "t.arrows"
    writer = StreamWriter(path, SCHEMA)
    ends, row_counts = [path.stat().st_size], [0]
    for first, count in [(0, 3), (3, 1), (4, 9), (13, 2)]:
        writer.write(batch(first, count))
        ends.append(path.stat().st_size)
        row_counts.append(first + count)
    writer.close()
    return path, ends, row_counts


def test_a_stream_cut_at_every_byte_gives_the_whole_batches_before_the_cut(stream, tmp_path):
    path, ends, row_counts = stream
    content = path.read_bytes()
    whole = read_stream(path, SCHEMA)[0]
    cut_path = tmp_path / "cut.arrows"
    for cut in range(len(content) + 1):
        # Given
        cut_path.write_bytes(content[:cut])

        # When
        table, is_torn = read_stream(cut_path, SCHEMA)

        # Then
        done = [rows for end, rows in zip(ends, row_counts, strict=True) if end <= cut]
        assert table.num_rows == (done[-1] if done else 0), cut
        assert table.equals(whole.slice(0, table.num_rows)), cut
        assert is_torn == (cut not in ends), cut


def test_a_stream_that_was_never_made_is_empty_and_torn(tmp_path):
    table, is_torn = read_stream(tmp_path / "nothing", SCHEMA)

    assert (table.num_rows, table.schema, is_torn) == (0, SCHEMA, True)


def test_a_stream_is_never_written_over(stream):
    with pytest.raises(FileExistsError):
        StreamWriter(stream[0], SCHEMA)


def test_a_batch_that_does_not_fit_leaves_the_stream_as_it_was(tmp_path):
    # Given a file that may grow by one batch, but not by two
    path = tmp_path / "t.arrows"
    writer = StreamWriter(path, SCHEMA)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit_bytes = path.stat().st_size + 100 + batch(0, 5).serialize().size
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        # When
        writer.write(batch(0, 5))
        with pytest.raises(OSError) as refused:  # noqa: PT011  (told by its number below)
            writer.write(batch(5, 5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    # Then it holds the first, whole, and takes the next when there is room again
    assert refused.value.errno == errno.EFBIG
    table, is_torn = read_stream(path, SCHEMA)
    assert (table.num_rows, is_torn) == (5, False)
    writer.write(batch(5, 2))
    writer.close()
    table, is_torn = read_stream(path, SCHEMA)
    assert table["time_ns"].to_pylist() == list(range(7))
    assert not is_torn


def test_a_write_that_the_kernel_splits_is_completed(tmp_path, monkeypatch):
    # Given a kernel that takes seven bytes at a time
    write = os.write
    monkeypatch.setattr("collectors.stream.os.write", lambda fd, data: write(fd, data[:7]))

    # When
    writer = StreamWriter(tmp_path / "t.arrows", SCHEMA)
    writer.write(batch(0, 5))
    writer.close()

    # Then
    table, is_torn = read_stream(tmp_path / "t.arrows", SCHEMA)
    assert table.to_batches()[0].equals(batch(0, 5))
    assert not is_torn
