"""Foreign files come as blocks of bytes, and what no trace is ends in a clear error."""

from __future__ import annotations

import errno
import gzip
import os
import threading
from pathlib import Path

import pytest

from collectors.errors import ImportInvalid
from collectors.importers import source
from collectors.importers.source import blocks, head, read_error

TEXT = b"".join(b"%d,line %d of some trace\n" % (number, number) for number in range(100_000))


@pytest.fixture
def write(tmp_path: Path):
    def write_file(content: bytes) -> Path:
        path = tmp_path / "trace"
        path.write_bytes(content)
        return path

    return write_file


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("size", [0, 1, 1000, len(TEXT)])
@pytest.mark.parametrize("block_bytes", [1 << 12, 1 << 22])
def test_blocks_are_the_content_in_order_and_none_is_too_long(write, pack, size, block_bytes):
    path = write(pack(TEXT[:size]))
    found = list(blocks(path, block_bytes=block_bytes))
    assert b"".join(found) == TEXT[:size]
    assert all(0 < len(block) <= block_bytes for block in found)


def test_gzip_is_told_by_content_and_may_have_members_and_padding(write):
    members = gzip.compress(TEXT[:5000]) + gzip.compress(b"") + gzip.compress(TEXT[5000:])
    path = write(members + bytes(700))
    assert b"".join(blocks(path, block_bytes=999)) == TEXT


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_head_is_the_first_bytes(write, pack):
    path = write(pack(TEXT))
    assert head(path) == TEXT[: 1 << 16]
    assert head(path, 10) == TEXT[:10]
    assert head(write(pack(b"short"))) == b"short"


@pytest.mark.parametrize("kept", [2, 9, 11, 30, -9, -8, -1])
def test_cut_off_gzip_is_an_error(write, kept):
    path = write(gzip.compress(TEXT)[:kept])
    with pytest.raises(ImportInvalid, match="cut off"):
        list(blocks(path))


@pytest.mark.parametrize("at", [3, 2000, -3, -6])
def test_damaged_gzip_is_an_error(write, at):
    damaged = bytearray(gzip.compress(TEXT))
    damaged[at] ^= 0xFF
    with pytest.raises(ImportInvalid):
        list(blocks(write(bytes(damaged))))


def test_bytes_after_gzip_are_damage(write):
    with pytest.raises(ImportInvalid, match="wrong gzip data"):
        list(blocks(write(gzip.compress(TEXT) + b"more")))


def test_gzip_bomb_is_refused_before_it_is_unpacked(write):
    bomb = gzip.compress(bytes(1 << 27), compresslevel=6)
    seen: list[int] = []
    with pytest.raises(ImportInvalid, match="times its size"):
        seen.extend(len(block) for block in blocks(write(bomb)))
    assert sum(seen) <= source.RATIO_FREE_BYTES + source.BLOCK_BYTES


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_more_than_a_trace_can_be_is_refused(write, pack, monkeypatch):
    monkeypatch.setattr(source, "MAX_FILE_BYTES", len(TEXT) - 1)
    with pytest.raises(ImportInvalid, match="more than"):
        list(blocks(write(pack(TEXT)), block_bytes=4096))


def test_what_is_no_file_says_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for a writer
    for path, said in (
        (tmp_path, "is a directory"),
        (tmp_path / "none", "is not there"),
        (tmp_path / "fifo", "no regular file"),
        (tmp_path / "a\0b", "is no path"),
    ):
        for read in (head, lambda path: list(blocks(path))):
            with pytest.raises(ImportInvalid, match=said):
                read(path)


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EACCES, "may not be read"), (errno.EIO, "EIO"), (errno.EISDIR, "directory")],
)
def test_os_errors_are_told_apart_by_number(tmp_path, number, said):
    assert said in read_error(tmp_path, OSError(number, "whatever")).message


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_progress_rises_to_the_end(write, pack):
    told: list[float] = []
    list(blocks(write(pack(TEXT)), on_progress=told.append, block_bytes=4096))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_reader_that_stops_early_leaves_no_thread(write):
    noise = os.urandom(1 << 20)  # larger than what is unpacked without a thread
    before = threading.active_count()
    reading = blocks(write(gzip.compress(noise)), block_bytes=4096)
    next(reading)
    assert threading.active_count() == before + 1
    reading.close()
    assert threading.active_count() == before
