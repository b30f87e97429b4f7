"""A server that is recorded while it is loaded: the client's summary holds both sides."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from collectors.errors import ExitCode
from collectors.stream import StreamWriter
from profiler.load.foreground import Foreground, exit_code
from profiler.load.recorded import CAPTURE, MatrixRecorder
from profiler.load.results import SUMMARY_FILE
from profiler.load.scenario import Scenario
from tests.flaky import scenario, site_of, url_of
from tests.programs import Program


def record(server: Program, load: Scenario, directory: Path) -> dict[str, Any]:
    """Load ``server`` while it is recorded; return the summary."""
    recorder = MatrixRecorder(server.pid, with_otlp=False)
    with Foreground(directory, quiet=True) as foreground:
        return recorder.run(foreground, load, site_of(url_of(server)), directory / load.name)


def test_the_summary_on_disk_says_what_the_capture_says(flaky: Program, tmp_path: Path) -> None:
    summary = record(flaky, scenario(users=1, requests=3), tmp_path)

    own = tmp_path / "test"
    assert json.loads((own / SUMMARY_FILE).read_text()) == summary
    assert summary["server"]["capture"] == str(own / CAPTURE)
    assert summary["server"]["problem"] is None
    assert summary["server"]["waterfall"]["count"] == 3


def test_a_load_that_began_no_request_has_no_waterfall(flaky: Program, tmp_path: Path) -> None:
    # Given a load that is over before its first request
    load = scenario(users=1, seconds=1e-9)

    summary = record(flaky, load, tmp_path)

    assert summary["requests"]["begun_count"] == 0
    assert summary["server"]["waterfall"] is None


def test_a_capture_that_is_not_whole_is_told(
    flaky: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a disk that refuses while the server is recorded
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(StreamWriter, "write", refuse)

    summary = record(flaky, scenario(users=1, requests=3), tmp_path)

    assert exit_code([summary]) is ExitCode.GATE_OR_PARTIAL
    assert summary["server"]["problem"]
    assert any("not a whole one" in warning for warning in summary["warnings"])
