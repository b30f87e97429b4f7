"""A run in numbers: latencies, throughput, failures, and how much of it was the client's doing.

Latencies count from when a request was due, to what this client saw, and only for requests that
ended well; warm-up requests and those that were cut off count nowhere.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from analyzers.percentiles import spread_seconds
from collectors.schema import INTERRUPTED, OK, WARM_UP
from profiler.load.meter import ClientLoad
from profiler.load.results import Results
from profiler.load.scenario import Scenario

SCHEMA_VERSION: Final = 1
# A client that uses more of its one core than this sees part of what it should send and receive
# late; so does one whose requests or whose loop are later than this.
BUSY_RATIO: Final = 0.8
LATE_SECONDS: Final = 0.005
STARVED_RATIO: Final = 0.1

Times = NDArray[np.int64]


def summarize(results: Results) -> dict[str, Any]:
    """Return a run as a JSON object; times in seconds, null where nobody knows."""
    rows = results.rows.filter(pc.not_equal(results.rows["scenario"], WARM_UP))
    ended = rows.filter(pc.not_equal(rows["status"], INTERRUPTED))
    well = rows.filter(pc.equal(rows["status"], OK))
    statuses = {one["values"]: one["counts"] for one in pc.value_counts(rows["status"]).to_pylist()}
    failures = {kind: count for kind, count in sorted(statuses.items()) if kind != OK}
    interrupted_count = failures.pop(INTERRUPTED, 0)
    lag = _lag(rows, results.scenario)
    client = results.client
    return {
        "schema_version": SCHEMA_VERSION,
        "scenario": results.scenario.to_json(),
        "url": results.url,
        "model": results.model,
        "is_whole": results.is_whole,
        "requests": {
            "begun_count": rows.num_rows,
            "ok_count": well.num_rows,
            "failed_count": ended.num_rows - well.num_rows,
            "interrupted_count": interrupted_count,
            "warm_up_count": results.rows.num_rows - rows.num_rows,
        },
        "failures": failures,
        "failure_details": {kind: results.details.get(kind, "") for kind in failures},
        "latency": _latencies(well),
        "throughput": _throughput(ended, well),
        "prompt_tokens": _prompt_tokens(well, results.scenario),
        "lag_seconds": lag,
        "client": None if client is None else _client(client),
        "warnings": _warnings(lag, client, results.is_whole),
    }


def _latencies(well: pa.Table) -> dict[str, Any]:
    """Return the spread of each latency with 95 % intervals; None for one that nobody has."""
    due = well["time_ns"]
    return {
        "headers": spread_seconds(_spans_ns(due, well["headers_ns"])),
        "first_token": spread_seconds(_spans_ns(due, well["first_token_ns"])),
        "per_output_token": spread_seconds(_per_output_token_ns(well)),
        "inter_token": _without_intervals(spread_seconds(_inter_token_ns(well))),
        "end_to_end": spread_seconds(_spans_ns(due, well["done_ns"])),
    }


def _spans_ns(start: pa.ChunkedArray, end: pa.ChunkedArray) -> Times:
    """Return the time between two boundaries, of the requests that have both."""
    return _numbers(pc.subtract(end, start))


def _per_output_token_ns(well: pa.Table) -> Times:
    """Return each answer's time per token after the first.

    Tokens as the server counted them; events with text where it did not.
    """
    events = pc.list_value_length(well["token_ns"])
    gap_counts = pc.subtract(pc.coalesce(well["output_tokens"], events), 1)
    spans = pc.subtract(well["last_token_ns"], well["first_token_ns"])
    has_gaps = pc.and_(pc.greater(gap_counts, 0), pc.is_valid(spans))
    return _numbers(spans.filter(has_gaps)) // _numbers(gap_counts.filter(has_gaps))


def _inter_token_ns(well: pa.Table) -> Times:
    """Return the times between events with text that follow one another in an answer."""
    gaps = [np.diff(times.values.to_numpy()) for times in well["token_ns"] if len(times) > 1]
    return np.concatenate(gaps) if gaps else np.empty(0, np.int64)


def _without_intervals(spread: dict[str, Any] | None) -> dict[str, Any] | None:
    """Take the intervals out: the gaps of one answer depend on each other, so none are known."""
    if spread is None:
        return None
    return {
        name: None if name.endswith(("_low_seconds", "_high_seconds")) else value
        for name, value in spread.items()
    }


def _throughput(ended: pa.Table, well: pa.Table) -> dict[str, float | None]:
    """Return what was done per second, from the first request due to the last answer's end."""
    window_s = None
    if well.num_rows:
        window_s = (pc.max(well["done_ns"]).as_py() - pc.min(ended["time_ns"]).as_py()) / 1e9
    return {
        "window_seconds": window_s,
        "requests_per_second": well.num_rows / window_s if window_s else None,
        "prompt_tokens_per_second": _rate(well["prompt_tokens"], window_s),
        "output_tokens_per_second": _rate(well["output_tokens"], window_s),
    }


def _rate(counts: pa.ChunkedArray, window_s: float | None) -> float | None:
    """Return the sum per second; None as soon as one count is unknown."""
    if not window_s or counts.null_count:
        return None
    return float(pc.sum(counts).as_py()) / window_s


def _prompt_tokens(well: pa.Table, scenario: Scenario) -> dict[str, int | None]:
    """Say of how many answers the server counted the prompt as it was meant, and otherwise."""
    counted = well["prompt_tokens"].drop_null()
    asked = scenario.prompt_tokens
    exact = None
    if asked is not None and len(counted):
        exact = int(pc.sum(pc.equal(counted, asked)).as_py())
    return {"asked": asked, "counted_count": len(counted), "exact_count": exact}


def _lag(rows: pa.Table, scenario: Scenario) -> dict[str, float] | None:
    """Return how late the client began requests; None in a closed loop, where none is due."""
    lags = _spans_ns(rows["time_ns"], rows["begun_ns"]) / 1e9
    if not scenario.is_open or not len(lags):
        return None
    p50, p99 = np.percentile(lags, (50, 99))
    return {"p50": float(p50), "p99": float(p99), "max": float(lags.max())}


def _client(client: ClientLoad) -> dict[str, float | None]:
    return {
        "wall_seconds": client.wall_seconds,
        "cpu_ratio": client.cpu_ratio,
        "cpu_peak_ratio": client.cpu_peak_ratio,
        "run_queue_wait_ratio": client.run_queue_wait_ratio,
        "loop_lag_p50_seconds": client.loop_lag_p50_ns / 1e9,
        "loop_lag_p99_seconds": client.loop_lag_p99_ns / 1e9,
        "loop_lag_max_seconds": client.loop_lag_max_ns / 1e9,
    }


def _warnings(lag: dict[str, float] | None, client: ClientLoad | None, is_whole: bool) -> list[str]:
    """Say where the client, not the server, may have been what was measured."""
    said = []
    if not is_whole:
        said.append("the run was stopped before its end")
    if client is None:
        return [*said, "the load process died; nobody knows what it cost"]
    if client.cpu_ratio >= BUSY_RATIO or client.cpu_peak_ratio >= BUSY_RATIO:
        said.append(
            f"the client used {client.cpu_ratio:.0%} of its one core, "
            f"{client.cpu_peak_ratio:.0%} in its busiest second: it is a limit itself"
        )
    if lag is not None and lag["p99"] >= LATE_SECONDS:
        said.append(f"1 % of the requests were sent {lag['p99'] * 1e3:.1f} ms late or more")
    if client.loop_lag_p99_ns / 1e9 >= LATE_SECONDS:
        said.append(f"1 % of what arrived was seen {client.loop_lag_p99_ns / 1e6:.1f} ms late")
    if (client.run_queue_wait_ratio or 0.0) >= STARVED_RATIO:
        said.append(
            f"the client waited for a CPU {client.run_queue_wait_ratio:.0%} of the time: "
            "the machine has too few for both it and the server"
        )
    return said


def _numbers(array: pa.ChunkedArray) -> Times:
    return np.asarray(array.drop_null().to_numpy(), dtype=np.int64)
