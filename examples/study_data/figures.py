"""The study's figures, what its subtraction makes of them, and the law of the line.

The figures, their author and their licence: SOURCE.md, in this folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from analyzers.convoy import batch_mean_sojourn_ns

DATA: Final = Path(__file__).with_name("codesign_decomposition.json")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the study. Times are means over its requests, in ms, unless the name says else."""

    label: str
    user_count: int
    prompt_tokens: float
    headers_ms: float  # client: from sending to the response headers
    headers_median_ms: float
    ttft_ms: float  # client: from sending to the first token
    study_cpu_percent: float
    isolated_tokens: int  # of the one tokenization alone that the study chose
    isolated_ms: float
    server_ttft_ms: float
    server_prefill_ms: float
    server_queue_ms: float | None  # None: the study's file does not keep so small a sum
    server_queue_at_most_ms: float

    @property
    def claimed_ms(self) -> float:
        """What the study's subtraction leaves: its "scheduling + queue wait"."""
        return self.headers_ms - self.isolated_ms

    @property
    def claimed_ratio(self) -> float:
        """The share of the time to headers that the subtraction leaves."""
        return self.claimed_ms / self.headers_ms

    @property
    def outside_engine_ms(self) -> float:
        """TTFT - queue - prefill: the frontend, and a little more. An unknown queue stays in it."""
        return self.server_ttft_ms - (self.server_queue_ms or 0.0) - self.server_prefill_ms

    @property
    def queue_text(self) -> str:
        """The queue wait in ms as it is written; where it is unknown, what it is below."""
        if self.server_queue_ms is None:
            return f"<{self.server_queue_at_most_ms:.2f}"
        return f"{self.server_queue_ms:.2f}"


@dataclass(frozen=True, slots=True)
class Law:
    """N prompts that arrive together, worked one after another and released together."""

    tokens_per_second: float
    constant_ms: float = 0.0  # once per request, beside the line

    def predict_ms(self, user_count: int, prompt_tokens: float) -> float:
        """Return the time to headers: N x tokens / throughput, and the constant."""
        service_ns = prompt_tokens / self.tokens_per_second * 1e9
        return batch_mean_sojourn_ns(user_count, service_ns) / 1e6 + self.constant_ms

    def error(self, scenario: Scenario, measured_ms: float) -> float:
        """Return the ratio by which the law is above (or, negative, below) what was measured."""
        return self.predict_ms(scenario.user_count, scenario.prompt_tokens) / measured_ms - 1


def fit(scenarios: Sequence[Scenario], constant_ms: float = 0.0) -> Law:
    """Return the law whose one throughput has the least squared error of log(law / measured).

    That is the geometric mean of the throughputs that each scenario alone would ask for, so a short
    scenario weighs as much as a long one.
    """
    alone = [
        one.user_count * one.prompt_tokens / (one.headers_ms - constant_ms) * 1e3
        for one in scenarios
    ]
    return Law(math.exp(sum(map(math.log, alone)) / len(alone)), constant_ms)


def fit_singles(scenarios: Sequence[Scenario]) -> Law:
    """Return throughput and constant of users who are alone: least squares of the relative error.

    With one user nobody stands in line, so the constant is what the time to headers holds beside
    the convoy, whatever the length of the prompt.
    """
    tokens = np.array([one.prompt_tokens for one in scenarios])
    headers_ms = np.array([one.headers_ms for one in scenarios])
    ms_per_token, constant_ms = np.polyfit(tokens, headers_ms, 1, w=1 / headers_ms)
    return Law(1e3 / float(ms_per_token), float(constant_ms))


@dataclass(frozen=True, slots=True)
class Study:
    """The study's figures, and the laws fitted to them."""

    scenarios: list[Scenario]
    raw: dict[str, Any]

    @property
    def concurrent(self) -> list[Scenario]:
        """The scenarios with more than one user."""
        return [one for one in self.scenarios if one.user_count > 1]

    def named(self, label: str) -> Scenario:
        """Return one scenario."""
        return next(one for one in self.scenarios if one.label == label)

    def fit(self, constant_ms: float = 0.0) -> Law:
        """Return the law with one throughput for all concurrent scenarios."""
        return fit(self.concurrent, constant_ms)

    @property
    def law(self) -> Law:
        """The law without a constant."""
        return self.fit()

    @property
    def singles(self) -> Law:
        """What users who are alone show."""
        return fit_singles([one for one in self.scenarios if one.user_count == 1])

    def held_out(self, scenario: Scenario) -> Law:
        """Return the law fitted to the other concurrent scenarios."""
        return fit([one for one in self.concurrent if one is not scenario])

    def other_run_ms(self, scenario: Scenario) -> float:
        """Return the time to headers of the same prompts in the run with LMCache."""
        return next(
            float(one["client_headers_ms_mean"])
            for one in self.raw["lmcache_scenarios"]
            if one["label"] == scenario.label
        )


def read_study() -> Study:
    """Read the figures that the project keeps."""
    raw: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return Study([_scenario(row, raw) for row in raw["scenarios"]], raw)


def _scenario(row: dict[str, Any], raw: dict[str, Any]) -> Scenario:
    count = row["request_count"]
    nominal = row["nominal_context_tokens"]
    # The study took the benchmark row nearest to the nominal context: 101,615 tokens for 100k,
    # although the prompts of that scenario have 58,560.
    isolated = min(raw["isolated_tokenizations"], key=lambda one: abs(one["tokens"] - nominal))
    queue_seconds = row["server_queue_seconds_sum"]
    below_seconds = raw["sums_kept_above_seconds"] if queue_seconds is None else queue_seconds
    return Scenario(
        label=row["label"],
        user_count=row["user_count"],
        prompt_tokens=row["prompt_tokens_sum"] / count,
        headers_ms=row["client_headers_ms_mean"],
        headers_median_ms=row["client_headers_ms_p50"],
        ttft_ms=row["client_ttft_ms_mean"],
        study_cpu_percent=row["study_cpu_percent_mean"],
        isolated_tokens=isolated["tokens"],
        isolated_ms=isolated["encode_ms_mean"],
        server_ttft_ms=row["server_ttft_seconds_sum"] / count * 1e3,
        server_prefill_ms=row["server_prefill_seconds_sum"] / count * 1e3,
        server_queue_ms=None if queue_seconds is None else queue_seconds / count * 1e3,
        server_queue_at_most_ms=below_seconds / count * 1e3,
    )
