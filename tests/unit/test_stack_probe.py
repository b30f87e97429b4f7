"""The stack probe as a whole: processes in, runs in the capture out, and losses as gaps."""

from __future__ import annotations

import itertools
import os
import signal
from typing import Any

import pytest
from rig import BUSY, Rig

from collectors.manifest import ProbeRecord
from probes.base import Level
from probes.sampler_probe import RESTART_LIMIT
from probes.stacks import probe as stacks
from probes.stacks import witness
from probes.stacks.probe import StackProbe
from probes.target import find_target

SLEEPY = """
import threading
def sleep_long(): threading.Event().wait()
threading.Thread(target=sleep_long, name='the sleeper', daemon=True).start()
print('up', flush=True)
sleep_long()
"""


def runs(rig: Rig, pid: int) -> list[dict[str, Any]]:
    """Return the process's rows of samples."""
    process = rig.context.tracks[pid]
    threads = {row["track"] for row in rig.rows["tracks"] if row.get("parent") == process}
    return [row for row in rig.rows.get("samples", []) if row["track"] in threads]


def functions(rig: Rig, stack: int) -> list[str]:
    """Return a stack's functions, innermost first."""
    found = []
    while stack >= 0:
        row = rig.rows["stacks"][stack]
        found.append(rig.rows["frames"][row["frame"]]["function"])
        stack = row["parent"]
    return found


def record_sleepers(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> ProbeRecord:
    """Record two sleeping threads until py-spy has named one; return the probe's record."""
    monkeypatch.setattr(witness, "DELAY_S", 0.5)  # the sampler has looked by then
    program = rig.program(SLEEPY)
    rig.target(program)
    probe = StackProbe()
    probe.start(rig.context)
    rig.until(lambda: "the sleeper" in {row["name"] for row in rig.rows["tracks"]})
    rig.until(lambda: len(runs(rig, program.pid)) > 8)
    return probe.stop()


def test_runs_are_of_threads_of_the_process_and_the_record_tells_the_rate(rig):
    program = rig.program()
    target = rig.target(program)
    probe = StackProbe()
    assert probe.check(target).level is Level.WORKS
    probe.start(rig.context)
    rig.until(lambda: len(runs(rig, program.pid)) > 4)
    record = probe.stop()

    found = runs(rig, program.pid)
    assert len({row["track"] for row in found}) == 2
    assert all(functions(rig, row["stack"])[0] == "spin" for row in found)
    assert all(row["duration_ns"] > 0 for row in found)
    assert record.level == Level.WORKS
    assert record.requested_hz == stacks.RATE_HZ
    assert record.achieved_hz is not None
    assert record.cpu_seconds is not None
    assert record.largest_gap_ns is not None
    assert record.detail["processes"][str(program.pid)]["look_count"] > 1


def test_runs_of_a_thread_follow_each_other_without_overlap(rig):
    program = rig.program()
    rig.target(program)
    probe = StackProbe()
    probe.start(rig.context)
    rig.until(lambda: len(runs(rig, program.pid)) > 6)
    probe.stop()

    by_track: dict[int, list[tuple[int, int]]] = {}
    for row in runs(rig, program.pid):
        end_ns = row["time_ns"] + row["duration_ns"]
        by_track.setdefault(row["track"], []).append((int(row["time_ns"]), int(end_ns)))
    for spans in by_track.values():
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))


def test_pyspy_is_asked_once_and_names_the_threads(rig, monkeypatch):
    record = record_sleepers(rig, monkeypatch)

    assert record.detail["py_spy_check"] == {"compared_count": 2, "equal_count": 2}


def test_a_reader_that_disagrees_with_pyspy_is_doubted(rig, monkeypatch):
    # Given a py-spy that sees another stack in each thread
    parse = witness.Witness._parse
    monkeypatch.setattr(
        witness.Witness, "_parse",
        lambda self, pid, said: {t: [("other", "/x.py")] for t in parse(self, pid, said)},
    )  # fmt: skip

    record = record_sleepers(rig, monkeypatch)

    assert record.level == Level.DEGRADED
    assert record.reason == "py-spy saw another stack in 2 of 2 sleeping threads"
    assert "--stacks py-spy" in (record.remedy or "")


def test_without_pyspy_stacks_are_read_and_nothing_is_compared(rig, monkeypatch):
    monkeypatch.setattr(witness, "find_pyspy", lambda: None)
    program = rig.program()
    rig.target(program)
    probe = StackProbe()
    probe.start(rig.context)
    rig.until(lambda: bool(runs(rig, program.pid)))

    record = probe.stop()

    assert record.level == Level.WORKS
    assert record.detail["py_spy_check"]["compared_count"] == 0


def test_a_process_that_appears_is_taken_up(rig):
    first, second = rig.program(), rig.program()
    rig.target(first)
    probe = StackProbe()
    probe.start(rig.context)
    rig.until(lambda: bool(runs(rig, first.pid)))
    process = find_target(second.pid).processes[second.pid]
    rig.enrol(process)

    probe.add(process)

    rig.until(lambda: bool(runs(rig, second.pid)))
    assert probe.stop().detail["restart_count"] == 0


def test_a_killed_sampler_is_replaced_and_leaves_a_gap(rig, monkeypatch):
    monkeypatch.setattr(witness, "find_pyspy", lambda: None)  # the sampler is the only child
    program = rig.program()
    rig.target(program)
    probe = StackProbe()
    probe.start(rig.context)
    rig.until(lambda: bool(runs(rig, program.pid)))
    before = len(runs(rig, program.pid))
    os.kill(rig.sampler_pid, signal.SIGKILL)
    rig.until(lambda: len(runs(rig, program.pid)) > before)

    record = probe.stop()

    assert record.detail["restart_count"] == 1
    (gap,) = [row for row in rig.rows["gaps"] if row["probe"] == "stacks"]
    assert "restarted" in gap["reason"]
    assert record.largest_gap_ns >= gap["end_ns"] - gap["start_ns"] > 0
    spans = [(row["time_ns"], row["time_ns"] + row["duration_ns"]) for row in rig.rows["samples"]]
    assert not any(start < gap["end_ns"] and end > gap["start_ns"] for start, end in spans)


def test_a_sampler_that_keeps_dying_is_given_up(rig, monkeypatch):
    monkeypatch.setattr(witness, "find_pyspy", lambda: None)
    program = rig.program()
    rig.target(program)
    probe = StackProbe()
    probe.start(rig.context)
    for count in range(1, RESTART_LIMIT + 2):
        rig.until(lambda: rig.sampler_pid > 0)
        os.kill(rig.sampler_pid, signal.SIGKILL)
        rig.until(lambda count=count: len(rig.said) >= count)

    record = probe.stop()

    assert record.level == Level.DEGRADED
    assert "given up" in (record.reason or "")
    assert any("given up" in row["reason"] for row in rig.rows["gaps"])


def test_the_end_of_the_last_process_is_no_failure(rig):
    program = rig.program(BUSY)
    rig.target(program)
    probe = StackProbe()
    probe.start(rig.context)
    rig.until(lambda: bool(runs(rig, program.pid)))
    program.kill()
    program.wait()
    rig.until(lambda: any("exited" in text for text in rig.said))

    record = probe.stop()

    assert record.level == Level.WORKS
    assert record.detail["restart_count"] == 0
    assert not any("no samples" in row["reason"] for row in rig.rows.get("gaps", []))
