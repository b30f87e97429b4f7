"""The stack reader against programs that know their own stacks, on every CPython it knows."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gil.interpreters import find_interpreter

from probes.stacks.finder import FIXED, SELF_DESCRIBED, StacksUnsupported, find_stacks
from probes.stacks.reader import NOT_READ, StackReader
from probes.stacks.table import ROOT, Interned

PROGRAMS = Path(__file__).parent / "stacks"
VERSIONS = [*FIXED, SELF_DESCRIBED]
SECONDS = 8
RATE_HZ = 1000
TOLERANCE_RATIO = 0.02
ATTEMPTS = 3  # where other programs keep the CPUs busy, a look comes when it can

pytestmark = pytest.mark.truth

Frames = list[list[str]]


@contextmanager
def running(interpreter: str, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [interpreter, str(PROGRAMS / program), *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(params=VERSIONS, ids=lambda version: "{}.{}".format(*version))
def interpreter(request: pytest.FixtureRequest) -> str:
    found = find_interpreter(request.param)
    if found is None:
        pytest.skip("CPython {}.{} is not here".format(*request.param))
    return str(found)


def path(interned: Interned, stack: int) -> Frames:
    """Return a stack's frames, innermost first."""
    frames, stacks = interned.new_frames, interned.new_stacks
    found = []
    while stack != ROOT:
        stack, frame = stacks[stack]
        found.append(list(frames[frame]))
    return found


def line_of(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def test_every_shape_is_read_as_the_interpreter_has_it(interpreter):
    # Given threads that stand still, and what the interpreter says of them
    with running(interpreter, "shapes.py") as process:
        truth = line_of(process)
        interned = Interned()
        with StackReader(find_stacks(process.pid), interned) as reader:
            # When they are read twice: with everything new, and with all places known
            looks = [dict(reader.read(time.monotonic_ns())) for _ in range(2)]

        # Then they are the same, frame by frame
        for look in looks:
            assert set(truth["tids"].values()) <= look.keys()
            for name, tid in truth["tids"].items():
                assert path(interned, look[tid]) == truth["frames"][name], name
        assert reader.unread_count == 0


def test_what_stands_still_is_not_decoded_again(interpreter):
    with running(interpreter, "shapes.py") as process:
        line_of(process)
        interned = Interned()
        with StackReader(find_stacks(process.pid), interned) as reader:
            first = reader.read(time.monotonic_ns())
            counts = len(interned.new_frames), len(interned.new_stacks)

            assert reader.read(time.monotonic_ns()) == first
            assert (len(interned.new_frames), len(interned.new_stacks)) == counts


def test_short_pieces_of_work_get_their_share(interpreter):
    worst = []
    for _ in range(ATTEMPTS):
        truth, seen, unread_ratio = measure_pace(interpreter)
        worst.append(max(abs(seen[name] - share) for name, share in truth.items()))
        assert unread_ratio < 0.02
        if worst[-1] <= TOLERANCE_RATIO:
            return
    pytest.fail(f"off by {min(worst):.3f} at best")


def measure_pace(interpreter: str) -> tuple[dict[str, float], dict[str, float], float]:
    """Return each piece's true share, its share of the looks, and the share of lost looks."""
    with running(interpreter, "pace.py", str(SECONDS)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        interned = Interned()
        counts: dict[int, int] = {}
        with StackReader(find_stacks(process.pid), interned) as reader:
            end_s = time.monotonic() + SECONDS - 0.5
            while time.monotonic() < end_s:
                time.sleep(random.uniform(0, 2 / RATE_HZ))
                stack = dict(reader.read(time.monotonic_ns()))[process.pid]
                counts[stack] = counts.get(stack, 0) + 1
        truth = line_of(process)
    seen = dict.fromkeys(truth, 0)
    for stack, count in counts.items():
        if stack != NOT_READ:
            functions = [function for function, _ in path(interned, stack)]
            for name in truth:
                seen[name] += count * (name in functions)
    total = sum(seen.values())
    shares = {name: count / total for name, count in seen.items()}
    return truth, shares, counts.get(NOT_READ, 0) / sum(counts.values())


def test_an_older_interpreter_is_left_to_pyspy():
    interpreter = find_interpreter((3, 10))
    if interpreter is None:
        pytest.skip("CPython 3.10 is not here")
    code = "print('up', flush=True); input()"
    with subprocess.Popen(
        [str(interpreter), "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(StacksUnsupported, match=r"CPython 3\.10") as refused:
            find_stacks(process.pid)
        process.kill()
    assert "--stacks py-spy" in refused.value.remedy


def test_our_own_stack_is_readable():
    """The reader reads itself: it is inside its own system call."""
    if sys.version_info[:2] not in VERSIONS:
        pytest.skip("this Python is not one that the reader knows")
    import os

    interned = Interned()
    with StackReader(find_stacks(os.getpid()), interned) as reader:
        seen = dict(reader.read(time.monotonic_ns()))
    functions = [function for function, _ in path(interned, seen[os.getpid()])]
    assert functions[0] == "Pieces.read"
    assert "test_our_own_stack_is_readable" in functions
