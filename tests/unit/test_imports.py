"""What an import costs: told by the modules it brings in, not by a clock."""

from __future__ import annotations

import subprocess
import sys

PLOTTING_AND_WEB = {
    "aiohttp", "altair", "bokeh", "dash", "django", "fastapi", "flask", "httpx", "jinja2",
    "matplotlib", "pandas", "plotly", "requests", "rich", "seaborn", "starlette", "streamlit",
    "tornado", "uvicorn",
}  # fmt: skip


def modules_after(statement: str) -> set[str]:
    """Return the top-level modules that are loaded after ``statement`` in a fresh interpreter."""
    code = f"{statement}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(ended.stdout.split())


def test_the_lower_floors_pull_in_no_plotting_or_web_library():
    loaded = modules_after(
        "import collectors, probes, analyzers\n"
        "import collectors.capture, analyzers.analysis\n"
        "import probes.pyspy, probes.threads, probes.server_metrics, probes.gil.probe"
    )

    assert {"collectors", "probes", "analyzers", "pyarrow"} <= loaded
    assert not loaded & PLOTTING_AND_WEB


def test_help_waits_for_no_data_library():
    loaded = modules_after(
        "from profiler.cli import cli\n"
        "try: cli.main(['--help'], standalone_mode=True)\n"
        "except SystemExit: pass"
    )

    assert "click" in loaded
    assert not loaded & {"pyarrow", "numpy", "psutil", "tokenizers", "rich", "elftools", "httpx"}


def test_naming_the_ground_floor_does_not_load_its_data_library():
    assert "pyarrow" not in modules_after("import collectors, collectors.errors, probes, analyzers")
