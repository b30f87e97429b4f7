"""Offsets that are wrong, and memory that is garbage: the stack reader refuses, it never breaks."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probes.sampling import TargetGone
from probes.stacks.finder import find_stacks
from probes.stacks.layout import StackLayout
from probes.stacks.reader import NOT_READ, StackReader
from probes.stacks.table import ROOT, Interned

PROGRAM = """
import threading
def stand(): threading.Event().wait()
threading.Thread(target=stand, daemon=True).start()
print('up', flush=True)
stand()
"""
OFFSETS = [
    name for name in StackLayout._fields if name.endswith(("_offset", "_bytes", "_address"))
]  # fmt: skip


@pytest.fixture(scope="module")
def layout() -> Iterator[StackLayout]:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        yield find_stacks(program.pid)
        program.kill()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_wrong_offsets_are_read_as_nothing(layout: StackLayout, data: st.DataObject):
    # Given a layout with one to three wrong numbers
    wrong = data.draw(
        st.dictionaries(st.sampled_from(OFFSETS), st.integers(0, 2048), min_size=1, max_size=3)
    )
    if "interpreter_address" in wrong:
        wrong["interpreter_address"] += layout.interpreter_address
    # Fields of a frame must stay in order, as in every CPython there is.
    code, previous, owner = sorted(
        wrong.get(name, getattr(layout, name))
        for name in ("code_offset", "previous_offset", "owner_offset")
    )
    wrong |= {
        "code_offset": code,
        "previous_offset": max(previous, code + 8),
        "owner_offset": max(owner, previous + 8, code + 16),
    }

    # When it is read
    interned = Interned()
    seen: list[tuple[int, int]] = []
    with (
        StackReader(layout._replace(**wrong), interned) as reader,
        suppress(TargetGone),  # no list of threads there
    ):
        seen = reader.read(time.monotonic_ns())

    # Then each answer is a stack that was interned, or none
    assert all(
        stack in (ROOT, NOT_READ) or 0 <= stack < len(interned.new_stacks) for _, stack in seen
    )
