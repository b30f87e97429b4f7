"""Where this machine keeps its CPythons."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

VERSIONS = [(3, minor) for minor in range(10, 15)]


def find_interpreter(version: tuple[int, int]) -> str | None:
    """Look in PATH and below ~/.pyenv; the newest patch release that starts and has a GIL."""
    name = f"python{version[0]}.{version[1]}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(pyenv.glob(f"{version[0]}.{version[1]}.*/bin/{name}"), reverse=True)
    on_path = shutil.which(name)
    for path in [*map(str, found), *([on_path] if on_path else [])]:
        code = "import sys; print(sys.version_info[:2], getattr(sys, '_is_gil_enabled', int)())"
        answer = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
        if answer.stdout.strip() in (f"{version} 0", f"{version} True"):
            return path
    return None
