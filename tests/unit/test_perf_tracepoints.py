"""Tracepoints are found where tracefs is mounted, and where it is not without mounting it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from probes.perf.errors import EventUnknown, PerfError
from probes.perf.tracepoints import Tracepoint, read_tracepoints

FORMAT = """\
name: sched_waking
ID: 375
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;
\tfield:pid_t pid;\toffset:24;\tsize:4;\tsigned:1;
\tfield:int target_cpu;\toffset:32;\tsize:4;\tsigned:1;

print fmt: "comm=%s pid=%d", REC->comm, REC->pid
"""


@pytest.fixture
def tracefs(tmp_path) -> Path:
    place = tmp_path / "events" / "sched" / "sched_waking"
    place.mkdir(parents=True)
    (place / "id").write_text("375\n")
    (place / "format").write_text(FORMAT)
    return tmp_path


def test_ids_and_fields_are_read(tracefs):
    found = read_tracepoints(("sched/sched_waking",), (tracefs / "not-mounted", tracefs))

    offsets = {"common_type": 0, "common_pid": 4, "comm": 8, "pid": 24, "target_cpu": 32}
    assert found == [Tracepoint(375, offsets, 36)]


def test_a_tracepoint_that_this_kernel_lacks_is_unknown(tracefs):
    with pytest.raises(EventUnknown, match="tracepoint sched/sched_nothing"):
        read_tracepoints(("sched/sched_nothing",), (tracefs,))


def test_without_a_mount_the_real_one_is_read_and_nothing_is_left_mounted():
    mounts = Path("/proc/self/mountinfo").read_text()
    files = len(os.listdir("/proc/self/fd"))

    try:
        found = read_tracepoints(("sched/sched_switch", "sched/sched_waking"), ())
    except PerfError as error:
        pytest.skip(error.message)

    assert all(one.id > 0 for one in found)
    assert {"prev_pid", "prev_state"} <= found[0].offsets.keys()
    assert "pid" in found[1].offsets
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert len(os.listdir("/proc/self/fd")) == files
