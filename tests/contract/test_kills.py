"""Killed at any instant, a capture opens and holds all but its last second."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collectors.capture import open_capture
from collectors.schema import TABLES
from tests.programs import TARGETS
from tests.recordings import PID, count, make_recorder, two_frames, write_segment

ROUNDS = 20
AT_ONCE = 4
SECOND = 1_000_000_000


def start_recording(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(TARGETS / "record_endlessly.py"), str(directory)],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("group", range(ROUNDS // AT_ONCE))
def test_a_recorder_killed_at_a_random_moment(tmp_path, group):
    # Given recorders at work
    chance = random.Random(group)
    running = [(tmp_path / str(n), start_recording(tmp_path / str(n))) for n in range(AT_ONCE)]

    # When each is killed after some writes, and a bit
    killed = []
    for directory, process in running:
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 3)):
            written_count = int(process.stdout.readline())
        for _ in range(chance.randrange(200_000)):
            pass
        killed.append((directory, written_count, time.monotonic_ns()))
        process.kill()
        process.wait()
        process.stdout.close()

    # Then each capture opens
    for directory, written_count, kill_ns in killed:
        capture = open_capture(directory)
        assert capture.is_recovered
        # with every row that was written, without a hole, to within a second of the end
        counters = capture.table("counters")
        assert counters["value"].to_pylist() == list(range(counters.num_rows))
        assert counters.num_rows + capture.table("tracks").num_rows >= written_count
        assert kill_ns - capture.end_ns < SECOND
        assert capture.table("gaps").to_pylist()[-1]["start_ns"] == capture.end_ns


def test_a_finish_killed_at_each_of_its_lines_is_whole_before_or_after(tmp_path):
    # Given a recording with rows and a segment
    recorder = make_recorder(tmp_path / "template")
    count(recorder, range(500))
    started_ns = recorder.manifest.started_ns
    write_segment(recorder.directory, two_frames(PID + 1), spawn_ns=started_ns)
    recorder.close()
    expected = {
        name: table.num_rows for name, table in open_capture(recorder.directory).tables.items()
    }

    # When its finish is killed, once at each line that it runs
    script = str(TARGETS / "finalise_and_die.py")
    ended = subprocess.run(
        [sys.executable, script, str(recorder.directory), str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip

    # Then each capture opens with all its rows, never half of the tables
    killed_count = int(ended.stdout)
    assert killed_count > 20
    kinds = set()
    for n in range(killed_count + 1):
        capture = open_capture(tmp_path / str(n))
        kinds.add((capture.is_recovered, capture.is_partial))
        for name in TABLES:
            # the gap that tells of the killing stands only in one that was not finished
            row_count = expected[name] - (name == "gaps" and not capture.is_recovered)
            assert capture.table(name).num_rows == row_count, (n, name)
    # first unfinished; then with tables, but not yet said to be complete; then done
    assert kinds == {(True, True), (False, True), (False, False)}
