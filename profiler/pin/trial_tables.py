"""A trial in words: its windows, what the plan is worth, and what became of the masks."""

from __future__ import annotations

import math
from typing import Any, Final

from rich.console import Console

from profiler.pin.gain import Gain, Verdict
from profiler.pin.throughput import MEASURES, THROUGHPUT, Measure
from profiler.pin.trial import Result, Schedule, StopReason
from profiler.render.console import plain_table

MOST_WINDOWS: Final = 120  # of 10 s: more than that nobody waits for


def opening(schedule: Schedule) -> str:
    """Say what a trial is about to do."""
    return (
        f"{2 * schedule.pair_count} windows of {schedule.window_s:g} s, half of them with these "
        f"masks, in random order, each after {schedule.settle_s:g} s to settle: about "
        f"{schedule.seconds / 60:.1f} min. Every mask is put back at the end, at Ctrl-C, and by a "
        "guardian process if cputax is killed."
    )


def print_result(out: Console, result: Result) -> None:
    """Print the windows, the gains, the verdict, and what became of the masks."""
    headings = (f">{_heading(measure)}" for measure in MEASURES)
    table = plain_table(">", "MASKS", *headings, ">IN SERVER")
    for window in result.windows:
        table.add_row(
            str(window.index + 1), "plan" if window.is_pinned else "as before",
            *(_number(window.values[measure.name], measure) for measure in MEASURES),
            "?" if window.request_count is None else f"{window.request_count:g}",
        )  # fmt: skip
    for name, cells in (
        ("ratio", [f"{gain.ratio:.3f}" if gain else "?" for gain in _gains(result)]),
        ("from", [_limit(gain.low) if gain else "?" for gain in _gains(result)]),
        ("to", [_limit(gain.high) if gain else "?" for gain in _gains(result)]),
    ):
        table.add_row("", f"[bold]{name}[/]", *cells, "")
    out.print(table)
    out.print(f"[bold]{verdict(result)}[/]")
    changed = beside(result)
    if changed:
        out.print("Beside it (of twenty that no plan changes, one looks changed):")
    for line in changed:
        out.print(f"  {line}")
    out.print(masks(result))


def verdict(result: Result) -> str:
    """Say what the plan is worth in throughput, or that nobody can tell."""
    gain = result.throughput
    if gain is None:
        return "Cannot be told: no two windows side by side in which the server made tokens."
    interval = f"{gain.ratio:.3f} ({_limit(gain.low)} to {_limit(gain.high)}, 95 %)"
    match gain.verdict:
        case Verdict.MORE:
            return f"A gain: throughput times {interval}. The commands are above."
        case Verdict.LESS:
            return f"A loss: throughput times {interval}. Leave the masks as they are."
        case Verdict.NONE:
            return f"No gain: throughput times {interval}."
    needed = gain.needed_pair_count
    if needed is not None and 2 * needed <= MOST_WINDOWS:
        remedy = f"About --windows {2 * needed} would tell."
    else:
        remedy = "The windows differ too much: make the load steadier, or --window longer."
    return f"Cannot be told at this load: throughput times {interval}. {remedy}"


def beside(result: Result) -> list[str]:
    """Name the other measures that changed; of twenty that did not, one looks as if it had."""
    lines = []
    for measure in MEASURES:
        gain = result.gain(measure.name)
        if measure is THROUGHPUT or gain is None:
            continue
        if gain.verdict in (Verdict.MORE, Verdict.LESS):
            is_better = (gain.verdict is Verdict.MORE) == measure.is_better_high
            word = "better" if is_better else "worse"
            lines.append(
                f"{measure.name}: {word}, times {gain.ratio:.3f} "
                f"({_limit(gain.low)} to {_limit(gain.high)})"
            )
    return lines


def masks(result: Result) -> str:
    """Say what became of the masks."""
    if result.stop_reason is StopReason.TARGET_EXITED:
        return "The server has exited, and its masks with it."
    is_whole = not result.foreign and not result.refused
    said = "Masks: all as before" if is_whole else "Masks: as before but for those below"
    said += f" ({result.thread_count} threads of {result.process_count} processes"
    said += f", {len(result.newborn)} born meanwhile)." if result.newborn else ")."
    for who, why in ((result.foreign, "somebody else moved"), (result.refused, "not ours to move")):
        if who:
            named = ", ".join(f"{pid}/{tid}" for pid, tid in who[:8])
            rest = f" and {len(who) - 8} more" if len(who) > 8 else ""
            said += f"\nLeft as they are, {why} (PID/thread): {named}{rest}"
    return said


def result_document(result: Result) -> dict[str, Any]:
    """Return a trial for ``--json``; an end of an interval that is not known is null."""
    return {
        "stop_reason": result.stop_reason.value,
        "verdict": result.throughput.verdict.value if result.throughput else Verdict.UNKNOWN.value,
        "gains": {name: _gain_document(gain) for name, gain in result.gains.items()},
        "windows": [window.to_json() for window in result.windows],
        "masks": {
            "process_count": result.process_count,
            "thread_count": result.thread_count,
            "newborn_count": len(result.newborn),
            "foreign": [list(who) for who in result.foreign],
            "refused": [list(who) for who in result.refused],
        },
    }


def _gain_document(gain: Gain) -> dict[str, Any]:
    low, high = (end if 0 < end < math.inf else None for end in (gain.low, gain.high))
    return {"ratio": gain.ratio, "low": low, "high": high, "pair_count": gain.pair_count}


def _gains(result: Result) -> list[Gain | None]:
    return [result.gain(measure.name) for measure in MEASURES]


def _heading(measure: Measure) -> str:
    return f"{measure.name}{'/s' if measure.unit == '1/s' else ''}"


def _number(value: float | None, measure: Measure) -> str:
    if value is None:
        return "?"
    return f"{value:.1f}" if measure.unit == "1/s" else f"{value * 1e3:.0f} ms"


def _limit(value: float) -> str:
    return f"{value:.3f}" if 0 < value < math.inf else "?"


def window_line(window_index: int, is_pinned: bool, schedule: Schedule) -> str:
    """Say which window has begun."""
    masks_now = "with the plan" if is_pinned else "as before"
    return f"window {window_index + 1} of {2 * schedule.pair_count}: {masks_now}"
