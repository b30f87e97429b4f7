"""Asks the server itself: its version and its metrics."""

from __future__ import annotations

import http.client
import re
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from probes.server_metrics import LOOK_TIMEOUT_S, fetch, server_urls
from probes.target import Target
from profiler.doctor.evidence import Means, Metrics, Missing

_CACHE: Final = "vllm:cache_config_info"
_PROMPT: Final = "vllm:request_prompt_tokens"
_TTFT: Final = "vllm:time_to_first_token_seconds"
_QUEUE: Final = "vllm:request_queue_time_seconds"
_PREFILL: Final = "vllm:request_prefill_time_seconds"
_WANTED = re.compile(
    rf"(?:# TYPE )?(?:{'|'.join((_CACHE, _PROMPT, _TTFT, _QUEUE, _PREFILL))})(?!\w*_bucket)"
)
_REMEDY: Final = "say where the server listens: cputax doctor PID --metrics-url http://HOST:PORT"


def read_metrics(target: Target, url: str | None = None) -> tuple[Metrics | Missing, str | None]:
    """Return the server's metrics, and the URL at which it answers."""
    reasons = []
    for one in [url] if url else server_urls(target):
        try:
            status, body = fetch(one, "/metrics", LOOK_TIMEOUT_S)
            if status == 200 and b"vllm:" in body:
                return parse(body.decode("utf-8", "replace")), one
            reasons.append(f"{one}/metrics: status {status}, no vllm: names")
        except (OSError, http.client.HTTPException, ValueError) as error:
            reasons.append(f"{one}: no answer ({type(error).__name__})")
    reason = "; ".join(reasons) or "no port of the server can be seen from here"
    return Missing(reason, _REMEDY), None


def parse(page: str) -> Metrics:
    """Read what the checks need from a page of metrics; engines are added up.

    Raises:
        ValueError: it is no such page.
    """
    wanted = "".join(line + "\n" for line in page.splitlines() if _WANTED.match(line))
    cache_config: dict[str, str] = {}
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(wanted):
        for sample in family.samples:
            if sample.name == _CACHE:
                cache_config = dict(sample.labels)
            else:
                totals[sample.name] = totals.get(sample.name, 0.0) + float(sample.value)
    means = [_mean(totals, name) for name in (_PROMPT, _TTFT, _QUEUE, _PREFILL)]
    known = [mean for mean in means if mean is not None]
    return Metrics(
        cache_config,
        int(totals.get(f"{_PROMPT}_count", 0)),
        Means(*known) if len(known) == len(means) else None,
    )


def _mean(totals: dict[str, float], name: str) -> float | None:
    count = totals.get(f"{name}_count", 0.0)
    return totals.get(f"{name}_sum", 0.0) / count if count else None
