"""The spool: frames whole or not at all, its room given back, its environment, its end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from probes.rocprof import wire
from probes.rocprof.errors import SpoolBroken
from probes.rocprof.spool import (
    SITE,
    Control,
    SpoolReader,
    hook_environment,
    spool_directory,
)
from probes.rocprof.spool_writer import SpoolWriter


@pytest.fixture
def path() -> Iterator[Path]:
    with spool_directory() as directory:
        yield directory / "7.spool"


def test_frames_come_as_they_were_written(path):
    writer, parts = SpoolWriter(str(path)), (b"head", memoryview(b"rows"))
    reader = SpoolReader(path, 7)

    writer.tell(wire.HELLO, {"pid": 7})
    assert [(kind, json.loads(body)) for kind, body in reader.frames()] == [
        (wire.HELLO, {"pid": 7}),
    ]  # fmt: skip
    assert writer.write(wire.DATA, *parts)
    assert writer.write(wire.DATA, b"")

    assert list(reader.frames()) == [(wire.DATA, b"headrows"), (wire.DATA, b"")]
    assert list(reader.frames()) == []


def test_half_a_frame_waits_for_its_rest(path):
    whole = wire.HEADER.pack(wire.MAGIC, wire.DATA, 10) + b"0123456789"
    path.write_bytes(b"")
    reader = SpoolReader(path, 7)
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert list(reader.frames()) == []

    path.write_bytes(whole)

    assert list(reader.frames()) == [(wire.DATA, b"0123456789")]


@pytest.mark.parametrize(
    "header",
    [
        wire.HEADER.pack(wire.MAGIC + 1, wire.DATA, 0),
        wire.HEADER.pack(wire.MAGIC, wire.DATA, wire.MAX_BODY_BYTES + 1),
    ],
)
def test_what_is_no_frame_is_refused_after_what_was_one(path, header):
    path.write_bytes(wire.HEADER.pack(wire.MAGIC, wire.DATA, 2) + b"ok" + header)
    frames = SpoolReader(path, 7).frames()

    assert next(frames) == (wire.DATA, b"ok")
    with pytest.raises(SpoolBroken, match="byte 18"):
        next(frames)


def test_the_room_of_what_was_read_is_given_back(path):
    writer, reader = SpoolWriter(str(path), max_waiting_bytes=1 << 16), SpoolReader(path, 7)
    row = bytes(1 << 14)
    for _ in range(20):  # far more in all than may wait
        assert writer.write(wire.DATA, row)
        assert list(reader.frames()) == [(wire.DATA, row)]


def test_records_that_find_no_room_are_refused_but_words_are_not(path):
    writer = SpoolWriter(str(path), max_waiting_bytes=1 << 14)

    assert writer.write(wire.DATA, bytes(1 << 13))
    assert not writer.write(wire.DATA, bytes(1 << 14))
    writer.tell(wire.TOTALS, {"unwritten_count": 1})

    kinds = [kind for kind, _ in SpoolReader(path, 7).frames()]
    assert kinds == [wire.DATA, wire.TOTALS]


def test_a_disk_that_takes_half_a_frame_leaves_whole_ones(path, monkeypatch):
    writer = SpoolWriter(str(path))
    writer.tell(wire.HELLO, {})
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda file, parts, at: real(file, parts[:1], at))

    assert not writer.write(wire.DATA, b"rows")

    monkeypatch.undo()
    assert writer.write(wire.DATA, b"later")
    assert [kind for kind, _ in SpoolReader(path, 7).frames()] == [wire.HELLO, wire.DATA]


def test_a_disk_that_refuses_is_no_error_of_the_server(path, monkeypatch):
    writer = SpoolWriter(str(path))

    def refuse(*_: object) -> int:
        raise OSError(28, "")

    monkeypatch.setattr(os, "pwritev", refuse)
    assert not writer.write(wire.DATA, b"rows")
    monkeypatch.setattr(os, "ftruncate", refuse)
    assert not writer.write(wire.DATA, b"rows")
    monkeypatch.undo()

    assert writer.is_broken
    assert not writer.write(wire.DATA, b"rows"), "what it would follow is unknown"


def test_after_the_end_nothing_is_written(path):
    writer = SpoolWriter(str(path))
    writer.close()

    writer.tell(wire.TOTALS, {})

    assert path.stat().st_size == 0


def test_a_program_that_has_begun_anew_writes_a_new_spool(path):
    SpoolWriter(str(path)).tell(wire.HELLO, {"pid": 1})

    SpoolWriter(str(path)).tell(wire.HELLO, {"pid": 2})

    assert [json.loads(body) for _, body in SpoolReader(path, 7).frames()] == [{"pid": 2}]


def test_the_directory_is_private_and_goes_away():
    with spool_directory() as directory:
        assert directory.stat().st_mode & 0o077 == 0
        (directory / "1.spool").touch()
    assert not directory.exists()


def test_a_server_gets_the_hook_before_its_own_python_path(tmp_path):
    assert hook_environment(tmp_path, {"PYTHONPATH": "/own", "HOME": "/h"}) == {
        "PYTHONPATH": f"{SITE}:/own", "CPUTAX_ROCPROF_SPOOL": str(tmp_path),
    }  # fmt: skip
    with_calls = hook_environment(tmp_path, {}, is_hip_traced=True)
    assert with_calls["PYTHONPATH"] == str(SITE)
    assert with_calls["CPUTAX_ROCPROF_HIP_API"] == "1"
    assert (SITE / "sitecustomize.py").is_file()


def test_records_are_wanted_while_the_fifo_is_held_open(tmp_path):
    fifo = tmp_path / "7.control"
    control = Control(fifo)
    with pytest.raises(FileNotFoundError):
        control.open()
    os.mkfifo(fifo)
    assert not control.open(), "nobody listens yet"

    listener = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert control.open()
    with pytest.raises(BlockingIOError):
        os.read(listener, 1)
    control.close()

    assert os.read(listener, 1) == b""
    os.close(listener)
