"""Whatever a server's command line, environment and files say, every check answers."""

from __future__ import annotations

import json
from typing import Any

from doctor_evidence import server
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.doctor.catalogue import CHECKS, diagnose
from profiler.doctor.evidence import Metrics
from profiler.doctor.files import parse_model, parse_yaml
from profiler.doctor.variables import SHOWN

OPTIONS = (
    "--kv-transfer-config", "--kv_transfer_config.kv_connector", "--kv-offloading-size",
    "--kv-offloading-backend", "--profiler-config", "--compilation-config", "-cc.cudagraph_mode",
    "-O", "-O3", "-O0.x", "--config", "-tp", "-pp", "--dtype", "--kv-cache-dtype",
    "--no-enable-prefix-caching", "--enforce-eager", "--prefix-caching-hash-algo",
    "--", "-", "--.", "--a..b", "=",
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["kv_connector", "kv_connector_extra_config", "connectors", "profiler", "dtype",
             "cudagraph_mode", "quantization_config", "text_config", "config_groups", "weights"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip
CONNECTORS = st.sampled_from(["LMCacheConnectorV1", "MultiConnector", "NixlConnector", "Mine"])
OBJECTS = st.builds(
    lambda name, extra: json.dumps({"kv_connector": name, "kv_connector_extra_config": extra}),
    CONNECTORS,
    VALUES,
)
TEXTS = st.text(max_size=6) | st.just("9" * 5000)
WORDS = st.lists(
    st.sampled_from(OPTIONS) | OBJECTS | VALUES.map(json.dumps) | st.text(max_size=12), max_size=8
)
VERSIONS = st.sampled_from(["0.9.1", "0.19.0", "0.25.1", "0.32.0+cpu", "v1.0", "dev", ""])


@settings(max_examples=200, deadline=None)
@given(
    words=WORDS,
    variables=st.dictionaries(st.sampled_from(SHOWN), TEXTS, max_size=6),
    version=VERSIONS,
    labels=st.dictionaries(
        st.sampled_from(["cache_dtype", "enable_prefix_caching"]), st.text(max_size=6)
    ),
    document=VALUES,
)
def test_every_check_answers(
    words: list[str], variables: dict[str, str], version: str, labels: dict[str, str], document: Any
) -> None:
    model = parse_model(document if isinstance(document, dict) else {})
    evidence = server(
        *words, variables=variables, version=version, metrics=Metrics(labels), model=model
    )

    diagnoses = diagnose(evidence)

    assert {one.check.slug for one in diagnoses} == {check.slug for check in CHECKS}
    json.dumps([one.to_json() for one in diagnoses])


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_yaml_is_never_refused(text: str) -> None:
    flat = parse_yaml(text)

    assert all(isinstance(value, str) for value in flat.scalars.values())


def test_an_object_without_end_is_no_object() -> None:
    deep = "[" * 100_000

    found = diagnose(server("--kv-transfer-config", deep, "-cc.cudagraph_mode", deep))

    assert len(found) == len(CHECKS)
