"""Checks of the API servers: one process that parses, renders and tokenizes for everybody."""

from __future__ import annotations

from typing import Final

from probes import roles
from profiler.doctor import settings
from profiler.doctor import variables as names
from profiler.doctor.check import Answer, Check, Severity, fine, fires, not_applicable
from profiler.doctor.cpus import allowed_cpus
from profiler.doctor.evidence import Evidence, known

# Fewer requests than this say little about a mean.
_ENOUGH_REQUESTS: Final = 20
# A tokenizer of 500,000 tokens/s (the published study's) needs 8 ms for such a prompt.
_LONG_PROMPT_TOKENS: Final = 4096
# What is left of TTFT holds more than the API server (a running engine step, the way back): 49 ms
# were seen with an idle one. It counts from twice that, and when it is a good part of the whole.
_LONG_FRONT_S: Final = 0.1
_LONG_FRONT_RATIO: Final = 0.3
_MOST_API_SERVERS: Final = 4  # vLLM's documentation shows 4; more than that was not measured


def _ask_api_servers(evidence: Evidence) -> Answer:
    servers = evidence.of_role(roles.API_SERVER)
    if len(servers) != 1:
        return fine(f"{len(servers)} API servers")
    if names.is_on(settings.variable(evidence, names.RUST_FRONTEND)):
        return not_applicable("the Rust frontend runs on several threads")
    metrics = known(evidence.metrics)
    means = metrics.means
    if means is None or metrics.request_count < _ENOUGH_REQUESTS:
        return fine(f"{metrics.request_count} requests so far, too few to say")
    seen = (
        f"{metrics.request_count} requests, {means.prompt_tokens:,.0f} prompt tokens in the mean",
        f"TTFT {_ms(means.ttft_s)} in the mean: queue {_ms(means.queue_s)}, prefill "
        f"{_ms(means.prefill_s)}, the way to the engine and back {_ms(means.front_s)}",
    )
    is_long = means.prompt_tokens >= _LONG_PROMPT_TOKENS
    if not is_long or means.front_s < max(_LONG_FRONT_S, _LONG_FRONT_RATIO * means.ttft_s):
        return fine(*seen)
    cpus = allowed_cpus(evidence, evidence.processes)
    busy = len(evidence.of_role(roles.API_SERVER, roles.ENGINE_CORE, roles.WORKER))
    spare = int(cpus.count) - busy
    if spare < 1:
        return not_applicable(f"no CPU to spare for a second: {cpus.said}, {busy} busy processes")
    count = min(_MOST_API_SERVERS, 1 + spare)
    return fires("1 API server", *seen, fix=f"vllm serve ... --api-server-count {count}")


def _ask_tokenizer_threads(evidence: Evidence) -> Answer:
    servers = evidence.of_role(roles.API_SERVER)
    if not servers:
        return not_applicable("no API server here")
    threads = names.thread_count(settings.variable(evidence, names.RAYON_THREADS))
    if threads:  # 0 is rayon's own choice
        cpus = allowed_cpus(evidence, servers)
        count = threads * len(servers)
        seen = f"{names.RAYON_THREADS}={threads}, {len(servers)} API server(s), {cpus.said}"
        if count > cpus.count:
            each = max(1, int(cpus.count) // len(servers))
            return fires(seen, fix=f"{names.RAYON_THREADS}={each} vllm serve ...")
        return fine(seen)
    parallel = settings.variable(evidence, names.TOKENIZERS_PARALLELISM)
    if parallel is None or names.is_on(parallel):
        return fine(f"{names.RAYON_THREADS} and {names.TOKENIZERS_PARALLELISM} as they come")
    version = settings.version(evidence)
    seen = f"{names.TOKENIZERS_PARALLELISM}={parallel}"
    if version > settings.BATCH_TOKENIZER_LAST:
        return fine(seen, "this version tokenizes prompt by prompt")
    if allowed_cpus(evidence, servers).count < 2:
        return fine(seen, "one CPU")
    fix = f"unset {names.TOKENIZERS_PARALLELISM}"
    return fires(seen, "vLLM tokenizes up to 32 prompts a call", fix=fix)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms"


CHECKS: Final = (
    Check(
        "single-api-server",
        "One API server, long prompts, and requests wait in front of the engine",
        Severity.WARNING,
        "/metrics (prompt tokens, TTFT, queue, prefill), process tree, affinity",
        "one API server, 4,096 prompt tokens or more in the mean, TTFT less queue and prefill at "
        "least 100 ms and 30 % of it, and a CPU to spare",
        "Prompts are tokenized one behind another: of 32 at once with 32,000 characters each, the "
        "mean waited 349 ms for its headers instead of 17 (vLLM 0.32, two cores).",
        "vllm serve ... --api-server-count 4     # or, one process: --renderer-num-workers 4",
        _ask_api_servers,
    ),
    Check(
        "tokenizer-threads",
        "The tokenizer's threads do not fit the CPUs",
        Severity.WARNING,
        "environ, affinity, cgroups, version",
        "RAYON_NUM_THREADS times the API servers is more than the CPUs allowed; or "
        "TOKENIZERS_PARALLELISM is off where vLLM tokenizes in batches (to 0.19)",
        "Too many threads push the event loop off its CPU; with one, up to 32 prompts of a batch "
        "are encoded one after another and released together.",
        "unset RAYON_NUM_THREADS TOKENIZERS_PARALLELISM",
        _ask_tokenizer_threads,
    ),
)
