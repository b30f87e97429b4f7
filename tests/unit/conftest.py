"""What the tests of the samplers and of their probes look at."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import Rig

SPINNING = "def spin():\n    while True: pass\nprint('up', flush=True)\nspin()"


@pytest.fixture
def targets() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Yield two programs of one busy thread each."""
    started = []
    for _ in range(2):
        target = subprocess.Popen([sys.executable, "-c", SPINNING], stdout=subprocess.PIPE)
        started.append(target)
        assert target.stdout is not None
        target.stdout.readline()
    yield started
    for target in started:
        target.kill()
        target.communicate()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Yield what a probe needs around it."""
    made = Rig(tmp_path / "capture")
    yield made
    made.close()
