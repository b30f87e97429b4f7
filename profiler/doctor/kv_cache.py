"""Checks of the KV cache: keys that never match, tiers that stall, and room that is wasted."""

from __future__ import annotations

from typing import Final

from probes import roles
from profiler.doctor import settings
from profiler.doctor import variables as names
from profiler.doctor.check import Answer, Check, Severity, fine, fires, not_applicable
from profiler.doctor.evidence import CannotTell, Evidence, known

# Between a prefill and a decode server: what is off costs a transfer, not a prefill.
_TRANSFERS: Final = frozenset(
    {
        "MoRIIOConnector",
        "MooncakeConnector",
        "NixlConnector",
        "NixlPullConnector",
        "NixlPushConnector",
    }
)
# Connectors of vLLM 0.32 by what they find a block with: vLLM's block hashes, which another process
# must be able to make again; or something of their own or of the one engine that they live in.
_BLOCK_HASHES: Final = frozenset({"MooncakeStoreConnector", "LMCacheMPConnector"})
_NO_HASHES: Final = frozenset(
    {
        *_TRANSFERS,
        "DecodeBenchConnector",
        "ExampleConnector",
        "ExampleHiddenStatesConnector",
        "HiSparseConnector",
        "SharedStorageConnector",  # what ExampleConnector was called before
        "SimpleCPUOffloadConnector",
    }
)
# OffloadingConnector keeps blocks in its own memory, unless tiers are put below it.
_TIERS: Final = "secondary_tiers"
_SHARED_TIERS: Final = ("local_disk", "gds_path", "remote_url", "enable_pd", "enable_p2p")
_BITS: Final = {"float32": 32, "float": 32, "bfloat16": 16, "float16": 16, "half": 16}


def _ask_hash_seed(evidence: Evidence) -> Answer:
    found = settings.connectors(evidence)
    if not found:
        return not_applicable("no KV connector")
    seed = settings.variable(evidence, names.HASH_SEED)
    if seed is not None and seed != "random":
        return fine(f"{names.HASH_SEED}={seed}")
    unset = f"{names.HASH_SEED} is {seed or 'not set'}"
    connector = settings.lmcache(evidence)
    if connector is not None:
        algorithm = settings.lmcache_setting(evidence, connector, "pre_caching_hash_algorithm")
        if algorithm in {None, "builtin"}:
            if _is_alone(evidence, connector):
                return fine(unset, "one process makes all keys, and they end with it")
            return fires(unset, f"{connector.name} makes its keys with Python's own hash()")
        return _ask_block_hash(evidence, unset)
    if any(_shares_block_hashes(one) for one in found):
        return _ask_block_hash(evidence, unset)
    return fine(f"{unset}, and {found[0].name} has no keys that other processes must make")


def _is_alone(evidence: Evidence, connector: settings.Connector) -> bool:
    """Whether engine and worker are one process, and no tier outlives it or is shared."""
    return not evidence.of_role(roles.WORKER) and not any(
        names.is_on(settings.lmcache_setting(evidence, connector, tier)) for tier in _SHARED_TIERS
    )


def _shares_block_hashes(connector: settings.Connector) -> bool:
    if connector.name == "OffloadingConnector":
        return _TIERS in connector.extra
    if connector.name in _BLOCK_HASHES | _NO_HASHES:
        return connector.name in _BLOCK_HASHES
    raise CannotTell(
        f"what {connector.name} makes its keys of is not known",
        f"set it, which costs nothing: {names.HASH_SEED}=0",
    )


def _ask_block_hash(evidence: Evidence, unset: str) -> Answer:
    """Answer for keys that are vLLM's own block hashes."""
    version = settings.version(evidence)
    algorithm = settings.value(evidence, "prefix-caching-hash-algo") or "sha256"
    said = f"vLLM {version[0]}.{version[1]} starts its block hashes ({algorithm})"
    if algorithm.startswith("xxhash") or version <= settings.RANDOM_HASH_LAST:
        return fires(unset, f"{said} from a random number in each process")
    if version >= settings.FIXED_HASH_FIRST:
        return fine(unset, f"{said} from a fixed seed")
    raise CannotTell(
        f"whether vLLM {version[0]}.{version[1]} needs it was not looked up",
        f"set it, which costs nothing: {names.HASH_SEED}=0",
    )


def _ask_prefix_caching(evidence: Evidence) -> Answer:
    if settings.prefix_caching(evidence):
        return fine("the prefix cache is on")
    found = settings.connectors(evidence)
    off = "the prefix cache is off"
    if settings.switch(evidence, "enable-prefix-caching") is False:
        off = "--no-enable-prefix-caching"
    elif not found:
        return not_applicable(f"{off}, as vLLM has it by default for this model")
    if found:
        seen = f"KV connector {found[0].name}"
        is_transfer = all(one.name in _TRANSFERS for one in found)
        return fires(off, seen, severity=Severity.WARNING if is_transfer else None)
    return fires(off, "no KV connector", severity=Severity.INFO)


def _ask_kv_dtype(evidence: Evidence) -> Answer:
    kv = settings.kv_dtype(evidence)
    if kv != "auto" and kv not in _BITS:
        return fine(f"KV cache {kv}, narrower than 16 bits")
    model = known(evidence.model)
    if kv == "auto" and model.has_kv_scheme:
        return fine("the checkpoint brings its own type for the KV cache")
    dtype = settings.value(evidence, "dtype") or "auto"
    dtype = (model.dtype or "auto") if dtype == "auto" else dtype
    seen = f"KV cache {kv}" if kv != "auto" else f"KV cache as the model runs, {dtype}"
    bits = _BITS.get(dtype if kv == "auto" else kv)
    if bits is None:
        raise CannotTell(f"the size of dtype {dtype!r} is not known", "give --dtype")
    if bits == 32 and _BITS.get(model.dtype or "") == 16:
        fix = f"--dtype {model.dtype}"
        return fires(seen, f"weights stored as {model.dtype}", fix=fix, severity=Severity.WARNING)
    if model.float_bits is None or model.float_bits > 8:
        return fine(seen, f"weights {model.quantization or model.dtype or dtype}")
    if settings.accelerator(evidence) == settings.CPU:
        return not_applicable("an 8-bit KV cache is a matter of GPUs")
    return fires(seen, f"weights are floats of {model.float_bits} bits ({model.quantization})")


CHECKS: Final = (
    Check(
        "hash-seed",
        "PYTHONHASHSEED is not set, and a KV connector shares keys between processes",
        Severity.CRITICAL,
        "environ, command line, version",
        "LMCache in the server hashes with hash(); or vLLM's block hashes, with xxhash or up to "
        "0.19, are the keys of a shared store",
        "Each process makes other keys for the same tokens: 0 % cache hits on bit-identical "
        "prompts (LMCache study, MI300X).",
        "PYTHONHASHSEED=0 vllm serve ...     # the same on every process and node",
        _ask_hash_seed,
    ),
    Check(
        "prefix-caching-off",
        "The prefix cache is off",
        Severity.CRITICAL,
        "/metrics (cache_config_info), command line",
        "it is off and there is a KV connector (warning: one that only transfers from a prefill to "
        "a decode server); without one, as info, when it was switched off by hand",
        "Every turn prefills, or loads from the connector, its whole history again: 9 requests "
        "done where 52 were with it (agentic load, 8 users; LMCache study, MI300X).",
        "remove --no-enable-prefix-caching, or: vllm serve ... --enable-prefix-caching",
        _ask_prefix_caching,
    ),
    Check(
        "wide-kv-cache",
        "The KV cache is wider than the weights need",
        Severity.INFO,
        "/metrics (cache_config_info), command line, config.json",
        "weights that are floats of 8 or 4 bits and a KV cache of 16 on a GPU; as warning, 32 bits "
        "for weights of 16",
        "It holds half as many conversations before it evicts: 100k tokens of MiniMax-M2.5 take "
        "12 GB in BF16 and 6 in FP8 (ATOM study). Compare the answers before you keep it.",
        "vllm serve ... --kv-cache-dtype fp8",
        _ask_kv_dtype,
    ),
)
