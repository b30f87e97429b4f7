"""Python imports this by itself at its start, when its directory stands in PYTHONPATH.

It does nothing but wait for the first import of a package that uses the GPU: rocprofiler-sdk must
be told before HIP is first used. A process that imports none of them pays for one look at each
import's name. The hidden sitecustomize of the server's own environment is run as if this one were
not there.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from types import ModuleType

HERE = os.path.dirname(os.path.abspath(__file__))
ROOM = os.path.dirname(os.path.dirname(HERE))  # probes/rocprof
PACKAGE = "_cputax_rocprof"  # not "probes": the server may have a package of that name
SPOOL = "CPUTAX_ROCPROF_SPOOL"
GPU_PACKAGES = frozenset({"torch", "triton", "cupy", "jaxlib", "tensorflow", "hip"})


class Trigger:
    """A finder that finds nothing; it only sees what is about to be imported."""

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> None:  # fmt: skip
        """Begin when it is time, once."""
        if name in GPU_PACKAGES:
            sys.meta_path.remove(self)
            try:
                _begin()
            except Exception as error:  # whatever it is, the server goes on without us
                print(f"cputax: no GPU trace of this process: {error!r}", file=sys.stderr)


def _begin() -> None:
    """Import our package under a name of its own, and let it take over."""
    spec = importlib.util.spec_from_file_location(
        PACKAGE, os.path.join(ROOM, "__init__.py"), submodule_search_locations=[ROOM]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    hook = importlib.import_module(PACKAGE + ".inprocess.hook")
    hook.begin(os.environ[SPOOL])


def _run_hidden() -> None:
    """Run the sitecustomize that would have been imported instead of this one."""
    path = [entry for entry in sys.path if os.path.abspath(entry) != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is None or spec.loader is None:
        return
    hidden = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = hidden
    spec.loader.exec_module(hidden)


if os.environ.get(SPOOL):
    sys.meta_path.insert(0, Trigger())
_run_hidden()
