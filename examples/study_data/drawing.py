"""Draw the two readings of the study: per scenario, the time to first token cut up twice."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, NamedTuple

from study_data.figures import Scenario, Study

from collectors.errors import CputaxError, ExitCode

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR_HEIGHT: Final = 0.36
# A share of the axis below which a segment has no room for its figure.
NARROW_PERCENT: Final = 5.5


class PlotUnavailable(CputaxError):
    """The plot needs a package that is not installed."""

    slug: ClassVar[str] = "plot-unavailable"
    exit_code: ClassVar[ExitCode] = ExitCode.PERMISSION


class PlotNotWritable(CputaxError):
    """The plot cannot be written where it was asked for."""

    slug: ClassVar[str] = "plot-not-writable"
    exit_code: ClassVar[ExitCode] = ExitCode.PERMISSION


class Part(NamedTuple):
    """A kind of time and its colour (Paul Tol's palettes, told apart by the colour-blind too)."""

    name: str
    color: str


TOKENIZATION: Final = Part("one tokenization, measured alone", "#77AADD")
CLAIMED: Final = Part('the rest, called "scheduling + queue wait"', "#EE8866")
CALLED_PREFILL: Final = Part('headers to first token, called "GPU prefill"', "#44BB99")
OUTSIDE: Final = Part("TTFT - queue - prefill: before and around the engine", "#EEDD88")
QUEUE: Final = Part("queue wait: too thin to see, its figure is at the right", "#AA3377")
PREFILL: Final = Part("prefill", "#AACC66")
UNSEEN: Final = Part("seen by the client only: unattributed", "#DDDDDD")
STUDY_PARTS: Final = (TOKENIZATION, CLAIMED, CALLED_PREFILL)
COUNTER_PARTS: Final = (OUTSIDE, QUEUE, PREFILL, UNSEEN)


def study_reading(one: Scenario) -> list[tuple[Part, float]]:
    """Return the study's cut of the client's time to first token, ms."""
    return [
        # Where the subtraction goes below zero the bar ends at the headers.
        (TOKENIZATION, min(one.isolated_ms, one.headers_ms)),
        (CLAIMED, max(one.claimed_ms, 0.0)),
        (CALLED_PREFILL, one.ttft_ms - one.headers_ms),
    ]


def counters_reading(one: Scenario) -> list[tuple[Part, float]]:
    """Return the cut of the same time by the server's counters, ms."""
    return [
        (OUTSIDE, one.outside_engine_ms),
        (QUEUE, one.server_queue_ms or 0.0),
        (PREFILL, one.server_prefill_ms),
        (UNSEEN, one.ttft_ms - one.server_ttft_ms),
    ]


def draw(study: Study, path: Path) -> None:
    """Write the plot; the suffix of ``path`` says which format.

    Raises PlotUnavailable without matplotlib, PlotNotWritable where the file cannot be made.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotUnavailable(
            "the plot needs matplotlib, which is not installed here",
            "pip install matplotlib, or leave --plot away: the table needs nothing more",
        ) from error
    # Text stays text in an SVG, and the same figures make the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "cputax", "font.size": 9}):
        figure = Figure(figsize=(11, 8), layout="constrained")
        axes = figure.add_subplot()
        for row, one in enumerate(study.scenarios):
            _bar(axes, row - 0.2, one, study_reading(one))
            _bar(axes, row + 0.2, one, counters_reading(one))
            _write(axes, 101, row + 0.2, f"queue {one.queue_text} ms", "left", QUEUE.color)
            if one.claimed_ms < 0:
                note = f"  the subtraction leaves {one.claimed_ms:,.0f} ms"
                _write(axes, 100 * one.headers_ms / one.ttft_ms, row - 0.2, note, "left")
        _mark_law(axes, study)
        for part in (*STUDY_PARTS, *COUNTER_PARTS):
            axes.barh([0], [0], color=part.color, label=part.name)  # its entry in the legend
        axes.set_yticks(range(len(study.scenarios)), [_title(one) for one in study.scenarios])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the client's mean time to first token, % (figures in ms)")
        axes.set_title(
            "Time to first token, read twice: by subtraction (upper bar), by the server's own "
            "counters (lower bar)"
        )
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        try:
            date = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=120, metadata=date)
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, "unknown")
            raise PlotNotWritable(
                f"cannot write the plot at {path} ({reason})",
                "choose a directory that exists and that you may write to: --plot ~/study.svg",
            ) from error


def _title(one: Scenario) -> str:
    return f"{one.label}\n{one.ttft_ms:,.0f} ms"


def _bar(axes: Axes, y: float, one: Scenario, reading: Sequence[tuple[Part, float]]) -> None:
    left = 0.0
    for part, spent_ms in reading:
        share = 100 * spent_ms / one.ttft_ms
        axes.barh([y], [share], BAR_HEIGHT, left=[left], color=part.color)
        if share >= NARROW_PERCENT:
            _write(axes, left + share / 2, y, f"{spent_ms:,.0f}", "center")
        left += share


def _mark_law(axes: Axes, study: Study) -> None:
    """Mark the law's time to headers, where there is a line."""
    thousand = study.law.tokens_per_second / 1000
    label = f"to headers by the law: users x tokens / {thousand:,.0f}k a second"
    for row, one in enumerate(study.scenarios):
        if one in study.concurrent:
            law_ms = study.law.predict_ms(one.user_count, one.prompt_tokens)
            at = [100 * law_ms / one.ttft_ms] * 2
            axes.plot(at, [row - 0.39, row + 0.39], color="black", linewidth=2.5, label=label)
            label = "_"  # matplotlib's way to leave the others out of the legend


def _write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    side: Literal["left", "center"],
    color: str = "black",
) -> None:
    axes.text(x, y, text, ha=side, va="center", fontsize=8, color=color)
