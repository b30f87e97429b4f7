"""The GIL probe as a whole: processes in, rows in the capture out, and losses as gaps."""

from __future__ import annotations

import os
import signal

from rig import Rig

from probes.base import Level
from probes.gil.probe import GilProbe
from probes.sampler_probe import RESTART_LIMIT
from probes.target import find_target


def seen(rig: Rig, pid: int) -> int:
    """Return how many samples of this process there are."""
    track = rig.context.tracks[pid]
    return sum(row["track"] == track for row in rig.rows.get("gil", []))


def test_rows_name_threads_of_the_process_and_the_record_its_rate(rig: Rig) -> None:
    program = rig.program()
    target = rig.target(program)
    probe = GilProbe()
    assert probe.check(target).level is Level.WORKS
    probe.start(rig.context)
    rig.until(lambda: seen(rig, program.pid) > 500)
    record = probe.stop()
    process = rig.context.tracks[program.pid]
    threads = {row["track"] for row in rig.rows["tracks"] if row.get("parent") == process}
    holders = {row["holder"].as_py() for row in rig.rows["gil"]} - {None}
    waiters = {track for row in rig.rows["gil"] for track in row["waiters"].as_py() or []}
    assert len(threads) == 2
    assert holders <= threads
    assert waiters <= threads
    assert record.level == Level.WORKS
    assert record.requested_hz == 1000
    assert record.achieved_hz is not None
    assert record.cpu_seconds is not None
    assert record.detail["processes"][str(program.pid)]["sample_count"] == seen(rig, program.pid)


def test_a_process_that_appears_is_taken_up(rig: Rig) -> None:
    first, second = rig.program(), rig.program()
    rig.target(first)
    probe = GilProbe()
    probe.start(rig.context)
    rig.until(lambda: seen(rig, first.pid) > 0)
    process = find_target(second.pid).processes[second.pid]
    rig.enrol(process)
    probe.add(process)
    rig.until(lambda: seen(rig, second.pid) > 0)
    assert probe.stop().detail["restart_count"] == 0


def test_a_killed_sampler_is_replaced_and_leaves_a_gap(rig: Rig) -> None:
    program = rig.program()
    rig.target(program)
    probe = GilProbe()
    probe.start(rig.context)
    rig.until(lambda: seen(rig, program.pid) > 0)
    before = seen(rig, program.pid)
    os.kill(rig.sampler_pid, signal.SIGKILL)
    rig.until(lambda: seen(rig, program.pid) > before + 300)
    assert probe.stop().detail["restart_count"] == 1
    reasons = [row["reason"] for row in rig.rows["gaps"] if row["probe"] == "gil"]
    assert any("restarted" in reason for reason in reasons)


def test_a_sampler_that_keeps_dying_is_given_up(rig: Rig) -> None:
    program = rig.program()
    rig.target(program)
    probe = GilProbe()
    probe.start(rig.context)
    for count in range(1, RESTART_LIMIT + 2):
        rig.until(lambda: rig.sampler_pid > 0)
        os.kill(rig.sampler_pid, signal.SIGKILL)
        rig.until(lambda count=count: len(rig.said) >= count)  # type: ignore[misc]
    record = probe.stop()
    assert record.level == Level.DEGRADED
    assert record.reason is not None
    assert "given up" in record.reason
    assert any("given up" in row["reason"] for row in rig.rows["gaps"])


def test_the_end_of_the_last_process_is_no_failure(rig: Rig) -> None:
    program = rig.program()
    rig.target(program)
    probe = GilProbe()
    probe.start(rig.context)
    rig.until(lambda: seen(rig, program.pid) > 0)
    program.kill()
    program.wait()
    rig.until(lambda: any("exited" in text for text in rig.said))
    record = probe.stop()
    assert record.level == Level.WORKS
    assert record.detail["restart_count"] == 0
    assert "gaps" not in rig.rows or not any(
        "no samples" in row["reason"] for row in rig.rows["gaps"]
    )
