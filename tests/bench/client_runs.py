"""Two load clients at work on one server at the same time, and what each of them saw."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from vllm_client import Request, VllmClient

from collectors.schema import INTERRUPTED, OK
from profiler.load.bodies import Bodies
from profiler.load.plan import Plan
from profiler.load.runner import run_scenario
from profiler.load.scenario import Kind, Scenario
from profiler.load.site import Site

OURS, THEIRS = "cputax load", "vllm bench serve"
SETTLE_S: Final = 1.0  # connections are opened, and all users begin at once
FOLLOW_S: Final = 3600.0  # how long the first of a pair may have to go on beside the second


@dataclass(frozen=True)
class ClientRun:
    """One client's requests that ended well; what else it cost."""

    client: str
    requests: list[Request]
    failed_count: int
    cpu_s_per_request: float


Pair = tuple[ClientRun, ClientRun]


def common_part(pair: Pair) -> Pair:
    """Return the requests that began and ended while all users of both clients were at work.

    A client is at work until its last request begins: from then on some of its users are idle.
    """
    begin_s = max(min(one.start_s for one in run.requests) for run in pair) + SETTLE_S
    end_s = min(max(one.start_s for one in run.requests) for run in pair)

    def within(run: ClientRun) -> ClientRun:
        chosen = [
            one for one in run.requests
            if one.start_s >= begin_s and one.start_s + one.end_s <= end_s
        ]  # fmt: skip
        return replace(run, requests=chosen)

    return within(pair[0]), within(pair[1])


class SideBySide:
    """Runs clients in pairs; ``place`` takes the requests to send and the results."""

    def __init__(self, site: Site, theirs: VllmClient, place: Path) -> None:
        self._site = site
        self._theirs = theirs
        self._place = place

    def ours_and_ours(self, scenario: Scenario) -> Pair:
        """Run ``scenario``, whose seconds end it, by two clients of ours."""
        other = replace(scenario, seed=scenario.seed + 1)  # see `_write_requests`
        return self._beside(scenario, lambda: self._run_ours(other, lambda: False))

    def ours_and_theirs(self, scenario: Scenario, request_count: int) -> Pair:
        """Run ``scenario`` by our client and by theirs, whose last request ends it."""
        return self._beside(scenario, lambda: self._run_theirs(scenario, request_count))

    def _beside(self, scenario: Scenario, run_other: Callable[[], ClientRun]) -> Pair:
        """Run our client until the other one has ended."""
        beside = replace(scenario, name=f"{scenario.name}-beside", seconds=FOLLOW_S)
        is_over = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            ours = pool.submit(self._run_ours, beside, is_over.is_set)
            try:
                other = run_other()
            finally:
                is_over.set()
        return common_part((ours.result(), other))

    def _run_ours(self, scenario: Scenario, should_stop: Callable[[], bool]) -> ClientRun:
        directory = self._place / scenario.name
        results = run_scenario(scenario, self._site, directory, should_stop=should_stop)
        rows = results.rows.to_pylist()
        client = results.client
        assert client is not None
        return ClientRun(
            OURS,
            [_our_request(row) for row in rows if row["status"] == OK],
            failed_count=sum(row["status"] not in (OK, INTERRUPTED) for row in rows),
            cpu_s_per_request=client.cpu_ratio * client.wall_seconds / len(rows),
        )

    def _run_theirs(self, scenario: Scenario, request_count: int) -> ClientRun:
        endpoint, kind = self._site.endpoint, scenario.kind
        arguments = {
            "--backend": "openai-chat" if kind is Kind.CHAT else "openai",
            "--base-url": endpoint.url,
            "--endpoint": kind.path,
            "--model": endpoint.model,
            "--dataset-name": "custom",
            "--dataset-path": self._write_requests(scenario, request_count),
            "--num-prompts": request_count,
            "--max-concurrency": scenario.users,
            "--temperature": 0,
            "--ready-check-timeout-sec": 0,
        }
        switches = ("--skip-tokenizer-init", "--disable-tqdm", "--save-detailed")
        words = [str(word) for pair in arguments.items() for word in pair]
        said = self._theirs.run([*words, *switches])
        return ClientRun(THEIRS, said.requests, len(said.errors), said.cpu_s / request_count)

    def _write_requests(self, scenario: Scenario, count: int) -> Path:
        """Write the first requests that our client makes, for theirs to read, in another order.

        In the same order the two would fall into step: the same answers are equally long.
        """
        pool, nonce = self._site.prepare(scenario), self._site.make_nonce()
        bodies = Bodies(Plan(self._site.endpoint, scenario, pool, "", nonce, self._place))
        path = self._place / f"{scenario.name}.jsonl"
        numbers = random.Random(count).sample(range(count), count)
        with open(path, "w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(bodies.make(str(number))) + "\n" for number in numbers)
        return path


def _our_request(row: dict[str, Any]) -> Request:
    built_ns = row["built_ns"]
    has_text = bool(row["token_ns"])
    return Request(
        start_s=built_ns / 1e9,
        first_event_s=(row["first_byte_ns"] - built_ns) / 1e9,
        first_text_s=(row["token_ns"][0] - row["time_ns"]) / 1e9 if has_text else None,
        end_s=(row["done_ns"] - built_ns) / 1e9,
        prompt_tokens=row["prompt_tokens"],
        output_tokens=row["output_tokens"],
        event_count=len(row["token_ns"]),
    )
