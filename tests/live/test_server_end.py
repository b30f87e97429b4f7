"""The server dies while it is recorded: what was seen until then is kept and said to be partial."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from driving import ROOT, analysis, chat_load, cputax_command, processes_marked
from serve import running_server

from collectors import open_capture
from collectors.errors import ExitCode

DEADLINE_S = 60.0


def test_a_server_killed_mid_record_leaves_a_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "killed.capture"
    with running_server() as server, chat_load(server.url, seconds=60.0):
        monkeypatch.setenv("CPUTAX_TEST_MARK", str(tmp_path))
        attach = subprocess.Popen(
            cputax_command("attach", server.pid, "-d", "60s", "-o", path, "-q"),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _await_rows(path, seconds_recorded=3.0)
            os.kill(server.pid, signal.SIGKILL)
            _, errors = attach.communicate(timeout=DEADLINE_S)
        finally:
            attach.kill()
            attach.wait()
    assert attach.returncode == ExitCode.TARGET, errors
    assert "[target-exited]" in errors
    assert str(server.pid) in errors
    assert analysis(path)["target"]["processes"]
    assert open_capture(path).table("samples").num_rows > 0
    assert processes_marked("CPUTAX_TEST_MARK", str(tmp_path)) == {}


def _await_rows(path: Path, seconds_recorded: float) -> None:
    """Wait until the recording at ``path``, read while it grows, spans this long."""
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        if (path / "manifest.json").exists():
            capture = open_capture(path)
            if (capture.end_ns - capture.start_ns) / 1e9 >= seconds_recorded:
                return
        time.sleep(0.2)
    pytest.fail(f"nothing was recorded in {path} within {DEADLINE_S:.0f} s")
