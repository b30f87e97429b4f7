"""Read a published study again: its claim beside what its own counters say.

    python examples/reanalyse_study.py
    python examples/reanalyse_study.py --plot study.svg     # needs matplotlib
    python examples/reanalyse_study.py --json

The study took the time until the response headers, subtracted one tokenization that was measured in
isolation, and called the rest "scheduling + queue wait". Its server counted queue wait and prefill
all the while. The figures, their author and their licence: examples/study_data/SOURCE.md.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
from study_data.drawing import draw
from study_data.figures import Law, Scenario, Study, read_study

from collectors.errors import CputaxError
from profiler.cli import show_error

# The law holds where it is this close to the measured mean.
TOLERANCE_RATIO: Final = 0.20
WIDTH: Final = 100


def report(study: Study) -> str:
    """Return the whole text, at most 100 columns wide."""
    title = (
        "CPU-GPU Co-Design for Agentic LLM Inference (Andy Luo, MIT), read again from its own files"
    )
    sections = (_claim, _law, _singles, _bursts, _growth)
    return "\n\n".join(
        (f"{title}\n{study.raw['source']}", *(section(study) for section in sections))
    )


def _claim(study: Study) -> str:
    published = study.raw["published_claim"]
    worst = study.named(published["label"])
    below_zero = next(one for one in study.scenarios if one.claimed_ms < 0)
    header = (
        "scenario",
        "CPU %",
        "to headers",
        "1 tokenize",
        "sched+queue",
        "share",
        "| queue",
        "prefill",
        "TTFT-queue-prefill",
    )
    rows = [
        (
            one.label,
            f"{one.study_cpu_percent:.1f}",
            f"{one.headers_ms:,.0f}",
            f"{one.isolated_ms:,.0f}",
            f"{one.claimed_ms:,.0f}",
            f"{one.claimed_ratio:.0%}",
            one.queue_text,
            f"{one.server_prefill_ms:,.0f}",
            f"{one.outside_engine_ms:,.0f}",
        )
        for one in study.scenarios
    ]
    return _section(
        "1. Left: the study's claim, by subtraction. Right: its server's counters. Means, ms",
        _table(header, rows),
        f"{worst.label}: the study says that {published['scheduling_and_queue_ms']:,} ms, "
        f"{published['share_of_time_to_headers']:.0%} of the time to headers, are scheduling and "
        f"queue wait. The scheduler's own clock says {worst.queue_text} ms. From the headers to "
        f"the first token the study counts {worst.ttft_ms - worst.headers_ms:,.0f} ms as GPU "
        f"prefill; the server counts {worst.server_prefill_ms:,.0f} ms.",
        "The study published its subtraction for that row only. In "
        f"{below_zero.label} it leaves less than nothing: the {below_zero.isolated_ms:.0f} ms are "
        f"of {below_zero.isolated_tokens:,} tokens, and its prompt has "
        f"{below_zero.prompt_tokens:,.0f}.",
        '"<": below what the file keeps (1 ms summed over all requests): unknown, and at most '
        "this. TTFT-queue-prefill is a residual: the frontend, the way to the engine, the step "
        "that runs there at arrival, and the way back. The headers leave before the engine knows "
        "of the request, so they hold neither scheduling nor its queue.",
    )


def _law(study: Study) -> str:
    law, constant_ms = study.law, study.singles.constant_ms
    with_constant = study.fit(constant_ms)
    header = (
        "scenario",
        "users",
        "tokens",
        "to headers",
        "law",
        "error",
        "in 20 %",
        "held out",
        "other run",
        "+ constant",
    )
    rows = [
        (
            one.label,
            f"{one.user_count}",
            f"{one.prompt_tokens:,.0f}",
            f"{one.headers_ms:,.0f}",
            f"{law.predict_ms(one.user_count, one.prompt_tokens):,.0f}",
            f"{law.error(one, one.headers_ms):+.1%}",
            "yes" if holds(law, one) else "no",
            f"{study.held_out(one).error(one, one.headers_ms):+.1%}",
            f"{law.error(one, study.other_run_ms(one)):+.1%}",
            f"{with_constant.error(one, one.headers_ms):+.1%}",
        )
        for one in study.concurrent
    ]
    return _section(
        f"2. One line before one tokenizer: users x tokens / {law.tokens_per_second:,.0f} tokens/s",
        _table(header, rows),
        "One throughput for the four rows, least squares of log(law / mean time to headers). held "
        "out: fitted to the other three. other run: the same law against the run with LMCache, to "
        f"which nothing was fitted. + constant: with {constant_ms:.1f} ms a request, from section "
        f"3, and {with_constant.tokens_per_second:,.0f} tokens/s; it moves the shortest scenario "
        "most.",
    )


def _singles(study: Study) -> str:
    alone = study.singles
    rows = [
        (
            one.label,
            f"{alone.predict_ms(one.user_count, one.prompt_tokens):,.1f}",
            f"{one.headers_ms:,.1f}",
            f"{alone.error(one, one.headers_ms):+.1%}",
            f"{one.headers_median_ms:,.1f}",
            f"{alone.error(one, one.headers_median_ms):+.1%}",
        )
        for one in study.scenarios
    ]
    return _section(
        f"3. Without a line: {alone.constant_ms:.1f} ms + tokens / "
        f"{alone.tokens_per_second:,.0f} tokens/s, fitted to single users only",
        _table(("scenario", "predicted", "mean", "error", "median", "error"), rows),
        "What the constant is, the figures do not say: HTTP and parsing are in it, and by its "
        "source the 2 ms that this vLLM's tokenizer waits for company. The same line, with users x "
        "tokens, meets the medians of the concurrent rows, to which nothing was fitted. Two of "
        "their means lie far below their medians: a few requests were much faster than the rest, "
        "as when the tokenizer takes the first of a burst by themselves. The file holds no single "
        "requests that would show it.",
    )


def _bursts(study: Study) -> str:
    rows = [
        (
            f"{one['user_count']}",
            f"{one['client_headers_ms_mean']:,.0f}",
            f"{one['client_headers_ms_mean'] / one['user_count']:,.1f}",
            f"{one['client_headers_ms_min']:,.0f}",
            f"{one['client_headers_ms_max']:,.0f}",
        )
        for one in study.raw["bursts"]
    ]
    return _section(
        "4. One by one, or together? First and last of N requests sent at once, context 8k, ms",
        _table(("users", "mean to headers", "per user", "first", "last"), rows),
        "One by one, the first would be there after an N-th of the last one's time. They come "
        "together: a batch, and each waits for all of it.",
    )


def _growth(study: Study) -> str:
    told = {one["user_count"]: one["headers_ms"] for one in study.raw["published_growth_at_32k"]}
    short, long = study.named("conc4_8k"), study.named("conc16_32k")
    straight_ms = study.law.predict_ms(short.user_count, long.prompt_tokens)
    return _section(
        '5. "Superlinear"?',
        [],
        f"The study's table of growth at 32k has {', '.join(map(str, told.values()))} ms for "
        f"{', '.join(map(str, told))} users. But its {told[short.user_count]} ms are "
        f"{short.label}, at 8k: no {short.user_count} users ran at 32k. The law expects "
        f"{straight_ms:.0f} ms there, on a straight line.",
    )


def holds(law: Law, one: Scenario) -> bool:
    """Return whether the law is within the tolerance of the mean time to headers."""
    return abs(law.error(one, one.headers_ms)) <= TOLERANCE_RATIO


def _section(title: str, table: Sequence[str], *paragraphs: str) -> str:
    wrapped = (textwrap.fill(one, WIDTH, break_on_hyphens=False) for one in paragraphs)
    return "\n\n".join(part for part in (title, "\n".join(table), *wrapped) if part)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]


def document(study: Study) -> dict[str, Any]:
    """Return everything that the text says as one JSON object; an unknown queue wait is null."""
    law, singles = study.law, study.singles
    with_constant = study.fit(singles.constant_ms)
    return {
        "source": study.raw["source"],
        "license": study.raw["license"],
        "published_claim": study.raw["published_claim"],
        "law": {
            "tokens_per_second": law.tokens_per_second,
            "tolerance_ratio": TOLERANCE_RATIO,
            "holds": all(holds(law, one) for one in study.concurrent),
        },
        "law_with_constant": {
            "tokens_per_second": with_constant.tokens_per_second,
            "constant_ms": with_constant.constant_ms,
        },
        "single_users": {
            "tokens_per_second": singles.tokens_per_second,
            "constant_ms": singles.constant_ms,
        },
        "bursts": study.raw["bursts"],
        "scenarios": [_row(one, study) for one in study.scenarios],
    }


def _row(one: Scenario, study: Study) -> dict[str, Any]:
    law, singles = study.law, study.singles
    row: dict[str, Any] = {
        "label": one.label,
        "user_count": one.user_count,
        "prompt_tokens": one.prompt_tokens,
        "headers_ms": one.headers_ms,
        "headers_median_ms": one.headers_median_ms,
        "ttft_ms": one.ttft_ms,
        "study": {
            "cpu_percent": one.study_cpu_percent,
            "isolated_tokenization_tokens": one.isolated_tokens,
            "isolated_tokenization_ms": one.isolated_ms,
            "scheduling_and_queue_ms": one.claimed_ms,
            "share_of_headers_ratio": one.claimed_ratio,
        },
        "counters": {
            "ttft_ms": one.server_ttft_ms,
            "queue_ms": one.server_queue_ms,
            "queue_at_most_ms": one.server_queue_at_most_ms,
            "prefill_ms": one.server_prefill_ms,
            "outside_engine_ms": one.outside_engine_ms,
        },
        "single_users_error_ratio": singles.error(one, one.headers_ms),
        "single_users_median_error_ratio": singles.error(one, one.headers_median_ms),
    }
    if one in study.concurrent:
        row["law"] = {
            "headers_ms": law.predict_ms(one.user_count, one.prompt_tokens),
            "error_ratio": law.error(one, one.headers_ms),
            "held_out_error_ratio": study.held_out(one).error(one, one.headers_ms),
            "other_run_error_ratio": law.error(one, study.other_run_ms(one)),
            "with_constant_error_ratio": study.fit(singles.constant_ms).error(one, one.headers_ms),
        }
    return row


def _image_path(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix not in {".svg", ".png"}:
        raise click.BadParameter(f"{path} must end with .svg or .png")
    return path


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    callback=_image_path,
    help="Draw both readings into this .svg or .png too; needs matplotlib.",
)
def main(as_json: bool, plot: Path | None) -> None:
    """Print the study's claim beside what its own counters say."""
    study = read_study()
    try:
        if plot is not None:
            draw(study, plot)
    except CputaxError as error:
        show_error(error)
        sys.exit(error.exit_code)
    click.echo(json.dumps(document(study), indent=2) if as_json else report(study))


if __name__ == "__main__":
    main()
