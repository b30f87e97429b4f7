"""Keeps what the cgroup files say of a throttled process where version 1 holds the cpu controller.

    python tests/data/hosts/capture_hybrid_cgroups.py tests/data/hosts/hybrid_cgroups.json

As root, on a machine with both versions mounted. It makes the group outer/inner with a quota of 0.4
of a CPU on the inner one, burns CPU in it for two seconds, and removes it. Not part of the tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

CPU: Final = Path("/sys/fs/cgroup/cpu")
CPUSET: Final = Path("/sys/fs/cgroup/cpuset")
BURN_S: Final = 2.0
CONTROLLERS: Final = frozenset({"cpu", "cpuset", ""})
FILES: Final = ("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.stat")


def keep_lines(text: str, column: int, separator: str, words: frozenset[str]) -> str:
    """Return the lines with one of ``words`` in a column."""
    lines = text.splitlines(keepends=True)
    return "".join(one for one in lines if words & set(one.split(separator)[column].split(",")))


def main() -> None:
    inner = CPU / "outer/inner"
    inner.mkdir(parents=True)
    (inner / "cpu.cfs_quota_us").write_text("40000")
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        (inner / "cgroup.procs").write_text(str(burner.pid))
        time.sleep(BURN_S)
        groups = Path(f"/proc/{burner.pid}/cgroup").read_text()
        mounts = Path("/proc/self/mountinfo").read_text().splitlines(keepends=True)
        files = {
            "proc/7/cgroup": keep_lines(groups, 1, ":", CONTROLLERS),
            "proc/self/mountinfo": "".join(line for line in mounts if " - cgroup" in line),
        }
        places = [*(CPU / group / name for group in ("", "outer", inner) for name in FILES)]
        places += [CPUSET / name for name in ("cpuset.effective_cpus", "cpuset.effective_mems")]
        files |= {str(place.relative_to("/")): place.read_text() for place in places}
    finally:
        burner.kill()
        burner.wait()
        inner.rmdir()
        inner.parent.rmdir()
    Path(sys.argv[1]).write_text(json.dumps(files, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
