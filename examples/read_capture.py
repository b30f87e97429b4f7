"""Read a capture with nothing but its documented tables: the busiest threads.

python examples/read_capture.py my.capture
"""

from __future__ import annotations

import sys

import pyarrow.compute as pc

from collectors import open_capture


def main(path: str) -> None:
    """Print the ten threads that ran most."""
    capture = open_capture(path)
    spent = (
        capture.table("thread_counters")
        .group_by("track")
        .aggregate([("run_ns", "min"), ("run_ns", "max")])
        .join(capture.table("tracks"), "track")
    )
    run_ns = pc.subtract(spent["run_ns_max"], spent["run_ns_min"])
    busiest = spent.append_column("ran_ns", run_ns).sort_by([("ran_ns", "descending")])
    for row in busiest.slice(0, 10).to_pylist():
        print(f"{row['ran_ns'] / 1e9:8.2f} s  {row['role']:12} {row['pid']:8} {row['name']}")


if __name__ == "__main__":
    main(sys.argv[1])
