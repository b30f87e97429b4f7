"""The only door to another process's environment: variables by name, and no others.

An environment holds keys and tokens. What was set at the start of the process is all there is to
see: a later ``os.environ[...] = ...`` of its own does not show, and a renamed process (vLLM's
workers) has overwritten it.
"""

from __future__ import annotations

from collections.abc import Iterable

from probes.procfs import Procfs


def read_variables(procfs: Procfs, pid: int, names: Iterable[str]) -> dict[str, str]:
    """Return those of the variables ``names`` that the process was started with.

    None of them when it is gone or not ours to look at.
    """
    try:
        raw = (procfs.root / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    wanted = {name.encode(): name for name in names}
    found = {}
    for entry in raw.split(b"\0"):
        name, is_set, value = entry.partition(b"=")
        if is_set and name in wanted:
            found[wanted[name]] = value.decode("utf-8", "replace")
    return found
