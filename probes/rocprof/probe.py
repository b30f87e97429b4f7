"""The AMD GPU probe: from inside a server that we started, else by attaching to one that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from probes.base import Probe
from probes.rocprof.attach_probe import AttachProbe
from probes.rocprof.inprocess_probe import InProcessProbe

KFD: Final = Path("/dev/kfd")  # the kernel's door to AMD GPUs (amdgpu, CONFIG_HSA_AMD)


def has_amd_gpu(device: Path = KFD) -> bool:
    """Whether this host's kernel drives an AMD GPU for computing."""
    return device.exists()


def rocprof_probe(spool: Path | None = None, *, is_hip_traced: bool = False) -> Probe:
    """Return the probe named ``rocprof`` that fits.

    Args:
        spool: of `spool.spool_directory`, where the server was started with
            `spool.hook_environment`; None: attach.
        is_hip_traced: record every call of HIP's runtime, when attaching; a server that we start is
            told by `spool.hook_environment`.
    """
    if spool is not None:
        return InProcessProbe(spool)
    return AttachProbe(is_hip_traced=is_hip_traced)
