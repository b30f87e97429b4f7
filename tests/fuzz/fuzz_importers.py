"""Feed an importer spoiled files for a while: nothing but our errors, little memory, no hang.

Run: ``python -m tests.fuzz.fuzz_importers FORMAT --seconds 600``. FORMAT is a module of
`collectors.importers.formats.FORMATS`. Each input goes to a child process, which is restarted when
it dies, hangs or grows too large. An input that broke a rule is kept, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Final

import numpy as np

from collectors.errors import CputaxError
from collectors.importers import formats
from collectors.importers.tables import to_capture
from collectors.importers.trace import Trace
from tests import foreign_traces as made
from tests.fuzz.mutations import spoil_file

MAX_PEAK_BYTES: Final = 1_000_000_000
MAX_SECONDS: Final = 20.0  # of one input, on a machine that others use, too
ADDRESS_SPACE_BYTES: Final = 8 << 30  # a last stop; threads and Arrow reserve much of it unused
REPORT_SECONDS: Final = 10.0

Seed = Callable[[Path], Sequence[Path]]


def _golden(pattern: str) -> Seed:
    def copy(directory: Path) -> list[Path]:
        found = sorted(made.GOLDEN.glob(pattern))
        return [Path(shutil.copy(path, directory)) for path in found[:1]]

    return copy


SEEDS: Final[dict[str, Seed]] = {
    "rocpd": lambda directory: [made.rocpd(directory)],
    "rocprofv3_csv": made.rocprofv3_csv,
    "nsys_sqlite": lambda directory: [made.nsys(directory)],
    "pftrace": lambda directory: [made.pftrace(directory)],
    "collapsed": lambda directory: [made.collapsed(directory)],
    "pyspy_trace": lambda directory: [made.pyspy(directory)],
    "kineto": _golden("kineto_*.json.gz"),
    "rocprofv3_json": _golden("rocprofv3_*.json*"),
}


def read_checked(name: str, paths: Sequence[Path]) -> bool:
    """Read files as this format and look at what came out; tell whether they were taken.

    Raises:
        AssertionError: the trace contradicts itself. Whatever the importer should not raise.
    """
    module = formats._module(name)
    try:
        for path in paths:
            module.is_mine(path, formats.head(path))
        trace = module.read(paths, lambda ratio: None)
        check(trace)
        to_capture(trace, list(paths), "fuzz")
    except CputaxError:
        return False
    return True


def check(trace: Trace) -> None:
    """Check that a trace refers only to what it has, and to times that can be."""
    slices, samples = trace.slices(), trace.sample_columns()
    tracks, names = len(trace.track_rows), len(trace.name_rows)
    assert ((slices.track >= 0) & (slices.track < tracks)).all()
    assert ((slices.name >= 0) & (slices.name < names)).all()
    assert ((slices.launch_track >= -1) & (slices.launch_track < tracks)).all()
    assert (slices.duration_ns >= 0).all()
    assert (slices.end_ns >= slices.time_ns).all()
    assert ((samples["track"] >= 0) & (samples["track"] < tracks)).all()
    assert ((samples["stack"] >= 0) & (samples["stack"] < trace.stacks.stack_count)).all()
    assert (samples["duration_ns"] > 0).all()
    assert all(count > 0 for count in trace.skipped.values())
    for track in np.unique(samples["track"]):
        ends = (samples["time_ns"] + samples["duration_ns"])[samples["track"] == track]
        starts = samples["time_ns"][samples["track"] == track]
        assert (np.sort(starts)[1:] >= np.sort(ends)[:-1]).all()


def serve(name: str) -> None:
    """Read a line of paths, separated by tabs, and answer with a line; in the child."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    for line in sys.stdin:
        paths = [Path(one) for one in line.rstrip("\n").split("\t")]
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here: proc(5)
        try:
            said = "taken" if read_checked(name, paths) else "refused"
        except BaseException:
            sys.stderr.write(traceback.format_exc())
            sys.stderr.flush()
            said = "raised"
        status = Path("/proc/self/status").read_text()
        peak_kb = int(status.partition("VmHWM:")[2].split()[0])
        print(said, peak_kb * 1024, flush=True)


class Child:
    """A process that reads what it is told to."""

    def __init__(self, name: str, log: Path) -> None:
        self._log = log
        with log.open("wb") as error:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.fuzz_importers", name, "--serve"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=error, text=True, bufsize=1,
            )  # fmt: skip

    def read(self, paths: Sequence[Path]) -> tuple[str, int]:
        """Return what became of the files, and the peak of the child's memory in bytes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("\t".join(map(str, paths)) + "\n")
        except BrokenPipeError:
            return "died", 0
        if not select.select([self._process.stdout], [], [], MAX_SECONDS)[0]:
            return "hung", 0
        answer = self._process.stdout.readline().split()
        return (answer[0], int(answer[1])) if len(answer) == 2 else ("died", 0)

    def said(self) -> str:
        """Return what it wrote of its errors."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def fuzz(name: str, seconds: float, seed: int, kept: Path) -> Counter[str]:
    """Spoil and read for a while; return how often which end was met."""
    random, ends = Random(seed), Counter[str]()
    largest_bytes, begun = 0, time.monotonic()
    reported = begun
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        source, work = Path(directory) / "source", Path(directory) / "work"
        source.mkdir()
        seeds = SEEDS[name](source)
        if not seeds:
            raise SystemExit(f"no seed for {name} in {made.GOLDEN}")
        child = Child(name, Path(directory) / "log")
        try:
            while time.monotonic() < begun + seconds:
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                paths = [Path(shutil.copy(path, work)) for path in seeds]
                spoil_file(random, random.choice(paths))
                asked = time.monotonic()
                end, peak_bytes = child.read(paths)
                took = time.monotonic() - asked
                largest_bytes = max(largest_bytes, peak_bytes)
                if peak_bytes > MAX_PEAK_BYTES:
                    end = "grew"
                ends[end] += 1
                if end not in ("taken", "refused"):
                    place = kept / f"{name}-{end}-{sum(ends.values())}"
                    shutil.copytree(work, place, dirs_exist_ok=True)
                    print(f"{name}: {end} after {took:.1f} s, {peak_bytes / 1e6:.0f} MB: {place}")
                    print(child.said()[-4_000:], flush=True)
                    child.close()
                    child = Child(name, Path(directory) / "log")
                if time.monotonic() > reported + REPORT_SECONDS:
                    reported = time.monotonic()
                    _report(name, ends, reported - begun, largest_bytes)
        finally:
            child.close()
    _report(name, ends, time.monotonic() - begun, largest_bytes)
    return ends


def _report(name: str, ends: Counter[str], seconds: float, largest_bytes: int) -> None:
    count = sum(ends.values())
    said = ", ".join(f"{number:,} {end}" for end, number in ends.most_common())
    print(
        f"{name}: {count:,} inputs in {seconds:.0f} s ({count / seconds:.0f}/s): {said};"
        f" largest {largest_bytes / 1e6:.0f} MB",
        flush=True,
    )


def main() -> int:
    """Fuzz as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("format", choices=[*SEEDS, "all"])
    parser.add_argument("--seconds", type=float, default=600.0, help="of each format")
    parser.add_argument("--seed", type=int, default=None, help="of the random changes")
    parser.add_argument("--keep", type=Path, default=None, help="where bad inputs go")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.format)
        return 0
    seed = int(time.time()) if asked.seed is None else asked.seed
    kept = asked.keep or Path(tempfile.mkdtemp(prefix="fuzz-kept-"))
    print(f"seed {seed}; what breaks a rule is kept in {kept}", flush=True)
    bad_count = 0
    for name in SEEDS if asked.format == "all" else [asked.format]:
        ends = fuzz(name, asked.seconds, seed, kept)
        bad_count += sum(number for end, number in ends.items() if end not in ("taken", "refused"))
    return 1 if bad_count else 0


if __name__ == "__main__":
    sys.exit(main())
