"""Whether a server can be profiled, and how: what is looked at before anything is started."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from collectors.errors import ProbeUnavailable
from probes.server_metrics import LOOK_TIMEOUT_S, fetch, server_urls
from probes.target import Target
from probes.torch_profiler.files import MIN_FREE_BYTES, directory_of, free_bytes
from probes.torch_profiler.settings import OPTION, TORCH, Settings, find_settings

# The last key spares a GPU server a table of sums, which takes it longer to make than the trace.
RESTART: Final = (
    f"""start the server with {OPTION} '{{"profiler": "torch", """
    """"torch_profiler_dir": "/var/tmp/torch", "torch_profiler_with_stack": false, """
    """"torch_profiler_dump_cuda_time_total": false}'"""
)
ALLOW: Final = "--torch-profiler-stacks"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the calls go, how the profiler was set up, and its directory as we reach it."""

    url: str
    settings: Settings
    directory: Path


def make_plan(target: Target, url: str | None, *, allows_stacks: bool) -> Plan:
    """Look at how the server was started, whether it has the routes, and at its disk.

    Raises:
        ProbeUnavailable: it cannot be profiled, or should not be.
    """
    if target.kind != "vllm":
        raise ProbeUnavailable(
            "the target is no vLLM server", "profile a vLLM server, or leave this probe out"
        )
    url = _find_url(target, url)
    settings = find_settings(target)
    if settings is None:
        raise ProbeUnavailable(
            "the server has a profiler, but its settings are not on its command line, so whether "
            "it records stacks cannot be told",
            RESTART,
        )
    if settings.profiler != TORCH:
        raise ProbeUnavailable(
            f"the server's profiler is {settings.profiler!r} and not torch", RESTART
        )
    if settings.has_stacks and not allows_stacks:
        raise ProbeUnavailable(
            "the server's profiler records Python stacks (vLLM's default): it can take gigabytes "
            "within seconds and kill the server",
            f"{RESTART}; or take the risk: {ALLOW}",
        )
    if settings.is_remote:
        raise ProbeUnavailable(
            f"the server writes its traces to {settings.directory}, which is no directory here",
            RESTART,
        )
    return Plan(url, settings, _directory_with_room(settings, target))


def _find_url(target: Target, given: str | None) -> str:
    """Return where the server takes the calls; asking with GET starts nothing."""
    reasons = []
    for url in [given] if given else server_urls(target):
        try:
            status, _ = fetch(url, "/start_profile", LOOK_TIMEOUT_S)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reasons.append(f"{url}: no answer ({type(error).__name__})")
            continue
        if status == HTTPStatus.METHOD_NOT_ALLOWED:  # it is there, for POST
            return url
        if status == HTTPStatus.NOT_FOUND:
            reasons.append(f"{url}: its profiler is off")
        else:
            reasons.append(f"{url}/start_profile: status {status}")
    raise ProbeUnavailable(
        "; ".join(reasons) or "no listening port of the server is visible to this user",
        RESTART if reasons else "say where it is: --metrics-url http://HOST:PORT",
    )


def _directory_with_room(settings: Settings, target: Target) -> Path:
    directory = directory_of(settings, target.procfs)
    try:
        free = free_bytes(directory)
    except OSError as error:
        raise ProbeUnavailable(
            f"cannot look at {settings.directory}, where the server writes ({error.strerror})",
            "run as the server's user or as root",
        ) from error
    if free < MIN_FREE_BYTES:
        raise ProbeUnavailable(
            f"{free >> 20} MiB are free where the server writes ({settings.directory})",
            f"make room for {MIN_FREE_BYTES >> 20} MiB there",
        )
    return directory
