"""The server dies while it is recorded: what was seen until then is kept and said to be partial."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from serve import running_server

from collectors import open_capture
from collectors.errors import ExitCode
from tests.commands import said_error, start_cputax
from tests.live.driving import analysis, chat_load, processes_marked
from tests.waiting import wait_until

DEADLINE_S = 60.0


def test_a_server_killed_mid_record_leaves_a_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "killed.capture"
    with running_server() as vllm, chat_load(vllm.url, seconds=60.0):
        monkeypatch.setenv("CPUTAX_TEST_MARK", str(tmp_path))
        attach = start_cputax("attach", vllm.pid, "-d", "60s", "-o", path, "-q")
        try:
            wait_until(lambda: _seconds_recorded(path) >= 3.0, "three seconds are recorded")
            os.kill(vllm.pid, signal.SIGKILL)
            _, errors = attach.communicate(timeout=DEADLINE_S)
        finally:
            attach.kill()
            attach.wait()
    assert attach.returncode == ExitCode.TARGET, errors
    said = said_error(errors)
    assert said["slug"] == "target-exited"
    assert str(vllm.pid) in said["message"]
    assert analysis(path)["target"]["processes"]
    assert open_capture(path).table("samples").num_rows > 0
    assert processes_marked("CPUTAX_TEST_MARK", str(tmp_path)) == {}


def _seconds_recorded(path: Path) -> float:
    """Return how much time the recording at ``path`` spans, read while it grows."""
    if not (path / "manifest.json").exists():
        return 0.0
    capture = open_capture(path)
    return (capture.end_ns - capture.start_ns) / 1e9
