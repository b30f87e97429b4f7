"""Which of the two ways to a GPU's timeline is taken, and that both are one probe."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from probes.rocprof.attach_probe import AttachProbe
from probes.rocprof.inprocess_probe import InProcessProbe
from probes.rocprof.probe import has_amd_gpu, rocprof_probe

ROOM = Path(__file__).resolve().parents[2] / "probes" / "rocprof"
IN_SERVER = [
    "__init__.py", "_abi.py", "_library.py", "_search.py", "payloads.py", "sdk.py",
    "spool_writer.py", "wire.py", "inprocess/__init__.py", "inprocess/hook.py",
    "inprocess/site/sitecustomize.py",
]  # fmt: skip


def test_a_server_that_we_started_is_traced_from_inside(tmp_path):
    assert isinstance(rocprof_probe(tmp_path), InProcessProbe)
    assert isinstance(rocprof_probe(), AttachProbe)
    assert rocprof_probe(tmp_path).name == rocprof_probe().name == "rocprof"


def test_an_amd_gpu_is_told_by_the_kernels_door(tmp_path):
    assert not has_amd_gpu(tmp_path / "kfd")
    (tmp_path / "kfd").touch()
    assert has_amd_gpu(tmp_path / "kfd")


@pytest.mark.parametrize("name", IN_SERVER)
def test_what_runs_in_the_server_is_of_python_3_10_and_needs_only_itself(name):
    tree = ast.parse((ROOM / name).read_text(), feature_version=(3, 10))

    absolute = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        (node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 0
    }
    assert not absolute & {"probes", "collectors", "analyzers", "profiler", "pyarrow", "elftools"}
