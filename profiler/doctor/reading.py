"""Puts the evidence together: the only part of the doctor that looks outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from probes.environment import read_variables
from probes.host.files import ROOT
from probes.roles import is_titled
from probes.server_metrics import server_version
from probes.target import Process, Target
from profiler.doctor import variables as names
from profiler.doctor.arguments import Arguments, parse_arguments
from profiler.doctor.evidence import Evidence, Missing
from profiler.doctor.files import read_model, read_packages, read_yaml
from profiler.doctor.instruments import find_instruments
from profiler.doctor.machine import Machine
from profiler.doctor.observing import read_processes, watch
from profiler.doctor.server import read_metrics

_NO_LAUNCHER: Final = Missing(
    "the process that was started with the server's options is not among those found",
    "give the PID of the one that was started: cputax ps",
)
_NO_VERSION: Final = Missing(
    "neither the server nor its packages say its version",
    "say where it listens: cputax doctor PID --metrics-url http://HOST:PORT",
)


def read_evidence(
    target: Target,
    *,
    metrics_url: str | None = None,
    root: Path = ROOT,
    pause: Callable[[float], None] = time.sleep,
) -> Evidence:
    """Look at a server for a second, without touching it."""
    began = time.monotonic()
    machine = Machine(root, target.processes)
    metrics, url = read_metrics(target, metrics_url)
    processes = watch(target, read_processes(target, root), pause=pause)
    host, looked_s = machine.finish(), time.monotonic() - began
    packages, installed = read_packages(root, processes)
    said = server_version(url) if url else None
    evidence = Evidence(
        processes=processes,
        arguments=_NO_LAUNCHER,
        variables=_NO_LAUNCHER,
        version=said or installed or _NO_VERSION,
        metrics=metrics,
        model=_NO_LAUNCHER,
        packages=packages,
        lmcache_file=_NO_LAUNCHER,
        profilers=find_instruments(target),
        looked_s=looked_s,
        host=host,
    )
    launcher = find_launcher(target)
    return evidence if launcher is None else _add_launch(evidence, target, launcher, root)


def _add_launch(evidence: Evidence, target: Target, launcher: Process, root: Path) -> Evidence:
    """Add what only the process that was started knows, and what that leads to."""
    arguments = _read_arguments(root, launcher)
    private = read_variables(target.procfs, launcher.pid, names.HIDDEN)
    hidden = dict.fromkeys(private.keys() - set(names.MODEL_HOMES), names.PRESENT)
    homes = {name: private[name] for name in names.MODEL_HOMES if name in private}
    file = private.get(names.LMCACHE_FILE)
    return replace(
        evidence,
        arguments=arguments,
        variables={**read_variables(target.procfs, launcher.pid, names.SHOWN), **hidden},
        model=read_model(
            root, launcher.pid, named_model(launcher, arguments), homes,
            arguments.value("quantization"),
        ),
        lmcache_file=_read_lmcache(root, launcher.pid, file) if file else None,
    )  # fmt: skip


def find_launcher(target: Target) -> Process | None:
    """Return the process that keeps the command line and the environment of the start.

    A titled one has overwritten both.
    """
    kept = [
        process
        for process in target.python_processes
        if process.kind == target.kind and not is_titled(list(process.cmdline))
    ]
    return kept[0] if kept else None


def named_model(launcher: Process, arguments: Arguments) -> str | None:
    """Return the model as the command line names it: ``--model``, or after ``serve``."""
    given = arguments.value("model")
    if given is not None or "serve" not in launcher.cmdline:
        return given
    after = launcher.cmdline[launcher.cmdline.index("serve") + 1 :]
    return after[0] if after and not after[0].startswith("-") else None


def _read_lmcache(root: Path, pid: int, path: str) -> Mapping[str, str] | Missing:
    """Read LMCache's file; its settings stand at the top of it, one a line."""
    file = read_yaml(root, pid, path)
    if file is None:
        reason = "LMCache's configuration file cannot be read"
        return Missing(reason, "run cputax on the server's host, as its user or as root")
    return file.scalars


def _read_arguments(root: Path, launcher: Process) -> Arguments:
    """Read the command line, and the file that it may name."""
    arguments = parse_arguments(launcher.cmdline)
    path = arguments.value("config")
    if path is None:
        return arguments
    file = read_yaml(root, launcher.pid, path)
    if file is None:
        return parse_arguments(launcher.cmdline, is_whole=False)
    return parse_arguments(launcher.cmdline, file.scalars, is_whole=file.is_flat)
