"""A trace's process and thread ids turned into the host's.

A server in a container writes the ids that it sees itself.
"""

from __future__ import annotations

from collectors.importers.trace import Trace
from probes.procfs import Procfs
from probes.target import Target


def localise(trace: Trace, target: Target) -> None:
    """Rename the processes and threads of ``trace`` in place, where the target's differ."""
    hosts: dict[int, int] = {}  # PID by the id inside
    for host_pid in target.processes:
        try:
            hosts[target.procfs.status(host_pid).inner_pids[-1]] = host_pid
        except OSError:  # it has exited
            continue
    threads: dict[int, dict[int, int]] = {}
    for row in trace.track_rows:
        pid = hosts.get(row.get("pid") or 0)
        if pid is None or pid == row["pid"]:
            continue
        row["pid"] = pid
        if row["kind"] == "thread":
            known = threads.setdefault(pid, _threads(target.procfs, pid))
            row["tid"] = known.get(row["tid"], row["tid"])


def _threads(procfs: Procfs, pid: int) -> dict[int, int]:
    """Return the host's id of each of a process's threads, by the id inside."""
    found: dict[int, int] = {}
    try:
        for tid in procfs.tids(pid):
            found[procfs.status(pid, tid).inner_pids[-1]] = tid
    except OSError:  # ended meanwhile; what is known is right
        return found
    return found
