"""Names of the counters of the host, of a process and of a thread, in the ``counters`` table.

Both sides read them here: the probes that fill them and the analyzers that conclude from them.
Times are seconds; a total is cumulative, and only its differences mean something. It is written
when it changes, and once more when its old value was last seen.
"""

from __future__ import annotations

from typing import Final

# On the host's track. Labels: cpu=N, or nothing for all CPUs together.
CPU_TIME: Final = "cpu_time"  # total, s; labels also mode=user|nice|system|idle|iowait|irq|softirq|
# steal (/proc/stat, in ticks of 10 ms)
CPU_FREQUENCY: Final = "cpu_frequency"  # level, Hz; labels cpu=N
PRESSURE: Final = "pressure"  # total, s; labels kind=some|full, resource=cpu|memory|io (PSI)
INTERRUPTS: Final = "interrupts"  # total, count; labels cpu=N

# On a process's track. Labels: cgroup=PATH, as seen from outside, always the last one; one per
# ancestor with a quota. `PRESSURE` of the process's group stands there too.
CGROUP_QUOTA: Final = "cgroup_quota"  # level, CPUs
CGROUP_THROTTLED: Final = "cgroup_throttled"  # total, s, of all threads of the group together
CGROUP_PERIODS: Final = "cgroup_periods"  # total, count
CGROUP_THROTTLED_PERIODS: Final = "cgroup_throttled_periods"  # total, count

# On a process's track: pages of it that were looked at, at random, and where they were.
NUMA_PAGES: Final = "numa_pages"  # level, count, of this look; labels node=N

# On a thread's track, cumulative since the probe began: counted by perf_event_open(2).
CYCLES: Final = "cycles"
INSTRUCTIONS: Final = "instructions"
LLC_MISSES: Final = "llc_misses"
DRAM_LOCAL: Final = "dram_local"  # loads that the thread's own node's memory answered
DRAM_REMOTE: Final = "dram_remote"  # that another node's did
CPU_CLOCK: Final = "cpu_clock"  # s
MIGRATIONS: Final = "cpu_migrations"
PAGE_FAULTS_MINOR: Final = "page_faults_minor"
PAGE_FAULTS_MAJOR: Final = "page_faults_major"
