"""What stands out in the CPU time: spinning, the largest piece of work, stages seen too rarely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from analyzers.cpu_time import NATIVE, UNATTRIBUTED, CpuTime, ThreadCpu
from analyzers.findings import Finding, Quantity, Rank
from analyzers.stages import SPIN_WAIT, UNKNOWN
from analyzers.timeline import Timeline

NOTABLE_SPIN_RATIO: Final = 0.05  # of the CPU time of the whole target
NOTABLE_ROLE_RATIO: Final = 0.05  # the same
# With fewer samples than this a share's 95 % interval is up to 20 points wide.
FEW_SAMPLES: Final = 100
STAGE_CAVEATS: Final = (
    "stages come from sampled stacks, weighted by the scheduler's account of each thread",
    "work below a frame that looks like a wait (libuv under uvloop) takes its thread's mix",
    "a stage that often blocks inside a call (a socket write) takes more than it ran, at the cost "
    "of the thread's other stages: a sample does not tell a blocked call from a running one",
)


def sample_count(timeline: Timeline, threads: Sequence[ThreadCpu]) -> float | None:
    """Return about how many times the sampler saw these threads at work or spinning."""
    count = 0.0
    for one in threads:
        rate_hz = timeline.sampling_rate_hz(one.thread.process)
        if rate_hz is None:
            return None
        count += sum(one.sampled_ns.values()) / 1e9 * rate_hz
    return count


def _few_samples(timeline: Timeline, cpu: CpuTime, total_ns: int) -> Finding | None:
    """Return the warning that the stages of some roles rest on few samples."""
    few: list[dict[str, Any]] = []
    for role in sorted({one.thread.process.role for one in cpu.threads}):
        threads = cpu.of_role(role)
        count = sample_count(timeline, threads)
        cpu_ns = sum(one.cpu_ns for one in threads)
        if count is not None and count < FEW_SAMPLES and cpu_ns >= NOTABLE_ROLE_RATIO * total_ns:
            few.append({"role": role, "sample_count": round(count), "cpu_seconds": cpu_ns / 1e9})
    if not few:
        return None
    counts = ", ".join(f"{row['role']}: about {row['sample_count']}" for row in few)
    return Finding(
        "few-samples",
        f"Stages rest on few samples of threads at work ({counts}): read their shares with their "
        "intervals.",
        Rank.QUALITY,
        Quantity(min(row["sample_count"] for row in few), "samples"),
        few,
        ("a recorder that gets no CPU sees less and may miss short stages altogether",),
    )


def cpu_findings(timeline: Timeline, cpu: CpuTime) -> list[Finding]:
    """Return what stands out: a busy loop, the largest piece of work, stages seen too rarely."""
    total_ns = sum(one.cpu_ns for one in cpu.threads)
    if not total_ns:
        return []
    findings = []
    spin: list[dict[str, Any]] = [
        {
            "pid": one.thread.process.pid,
            "role": one.thread.process.role,
            "tid": one.thread.tid,
            "name": one.thread.name,
            "spin_seconds": spin_ns / 1e9,
        }
        for one in cpu.threads
        if (spin_ns := one.stage_ns().get(SPIN_WAIT, 0.0))
    ]
    spin.sort(key=lambda row: -row["spin_seconds"])
    spin_seconds = sum(row["spin_seconds"] for row in spin)
    if spin_seconds * 1e9 >= NOTABLE_SPIN_RATIO * total_ns:
        findings.append(_spinning(spin, spin_seconds, total_ns))
    findings.append(_largest(cpu, total_ns))
    few = _few_samples(timeline, cpu, total_ns)
    if few is not None:
        findings.append(few)
    return findings


def _spinning(rows: list[dict[str, Any]], spin_seconds: float, total_ns: int) -> Finding:
    ratio = spin_seconds * 1e9 / total_ns
    first = rows[0]
    return Finding(
        "spin-wait",
        f"{spin_seconds:.2f} s of CPU time ({ratio:.0%}) went into waiting in a busy loop, most of "
        f"it in {first['name'] or first['tid']} of the {first['role']} (PID {first['pid']}): "
        "neither work nor idle, and not there for others on a full machine.",
        Rank.CPU_TIME,
        Quantity(spin_seconds, "s"),
        rows[:8],
        STAGE_CAVEATS[:1],
        cost_seconds=spin_seconds,
    )


def _largest(cpu: CpuTime, total_ns: int) -> Finding:
    """Return the finding that names the stage of work that took the most CPU time."""
    pieces = [
        (cpu_ns, stage, one)
        for one in cpu.threads
        for stage, cpu_ns in one.stage_ns().items()
        if stage != SPIN_WAIT
    ]
    pieces.sort(key=lambda piece: -piece[0])
    cpu_ns, stage, top = pieces[0] if pieces else (0.0, UNATTRIBUTED, cpu.threads[0])
    process = top.thread.process
    doing = {
        NATIVE: "running native code outside Python",
        UNATTRIBUTED: "doing what no sample saw",
        UNKNOWN: "in functions that no stage rule knows",
    }.get(stage, f"in stage {stage}")
    return Finding(
        "top-stage",
        f"Most CPU time went to {top.thread.name or top.thread.tid} of the {process.role} "
        f"(PID {process.pid}) {doing}: {cpu_ns / 1e9:.2f} s, {cpu_ns / total_ns:.0%} of the "
        f"target's {total_ns / 1e9:.2f} s.",
        Rank.CPU_TIME,
        Quantity(cpu_ns / 1e9, "s"),
        [
            {
                "pid": one.thread.process.pid,
                "role": one.thread.process.role,
                "tid": one.thread.tid,
                "name": one.thread.name,
                "stage": name,
                "cpu_seconds": piece_ns / 1e9,
            }
            for piece_ns, name, one in pieces[:8]
        ],
        STAGE_CAVEATS,
        cost_seconds=cpu_ns / 1e9,
    )
