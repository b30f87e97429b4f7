"""Who stood in line for what, as terminal tables: one per scenario, a line per resource."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding

from profiler.render.console import plain_table, safe

Json = Mapping[str, Any]

RESOURCES: Final = {
    "tokenizer": "tokenizer thread",
    "event_loop": "event loop",
    "prefill": "prefill, one by one",
    "scheduler_step": "scheduler step",
    "gil": "GIL of the API server",
}
COMING: Final = {
    "users": "{user_count} users in a loop",
    "batches": "batches of {user_count}",
    "open": "taken as they came",
}
LEVERS: Final = {
    "api_servers": "{amount:.0f} API servers",
    "tokenizer_workers": "{amount:.0f} tokenizer threads",
    "engines": "{amount:.0f} engines",
    "prefix_reuse": "shared prefixes tokenized once ({amount:.0%})",
}


def print_convoys(out: Console, analysis: Json, *, show_all: bool = False) -> None:
    """Print the section ``convoys``; without ``show_all`` only scenarios in which a line stood."""
    for scenario in analysis.get("convoys") or ():
        if scenario["resource"] is not None or show_all:
            _print_scenario(out, scenario, show_all)


def _print_scenario(out: Console, scenario: Json, show_all: bool) -> None:
    named = "" if scenario["name"] is None else f": {safe(scenario['name'])}"
    coming = COMING[scenario["coming"]].format(**scenario)
    out.print(
        f"\n[bold]Who stood in line for what{named}[/]  "
        f"[dim]{scenario['count']} requests, {coming}; means, ms[/]"
    )
    table = plain_table(
        "one at a time", ">busy", ">service", ">waited", ">predicted", ">of waited", ">deepest", ""
    )
    for row in scenario["resources"]:
        table.add_row(*_cells(row, is_named=row["resource"] == scenario["resource"]))
    out.print(table)
    for row in scenario["resources"]:
        if row["resource"] == scenario["resource"] or show_all:
            notes = [text for text in (row["measured_by"], row["reason"]) if text is not None]
            if notes:
                label = RESOURCES[row["resource"]]
                out.print(Padding(f"[dim]{label}: {'; '.join(notes)}[/]", (0, 0, 0, 2)))
    _print_gains(out, scenario)


def _cells(row: Json, *, is_named: bool) -> list[str]:
    name = RESOURCES[row["resource"]]
    if (row["server_count"] or 1) > 1:
        name = f"{row['server_count']} {name}s"
    ratio = row["predicted_to_measured_ratio"]
    behind = row["most_behind_count"]
    note = "not predicted" if row["predicted_wait_seconds"] is None else ""
    if row["is_line"] is False:
        note = "no line"
    return [
        f"[bold yellow]{name}[/]" if is_named else name,
        _percent(row["utilisation_ratio"]),
        _ms(row["service_mean_seconds"]),
        _ms(row["measured_wait_seconds"]),
        _ms(row["predicted_wait_seconds"]),
        _percent(ratio) if row["is_line"] else "",
        "" if behind is None else str(behind),
        f"[dim]{note}[/]",
    ]


def _print_gains(out: Console, scenario: Json) -> None:
    if not scenario["gains"]:
        return
    table = plain_table("what would lift it", ">predicted wait", ">saved", "option")
    for gain in scenario["gains"]:
        table.add_row(
            LEVERS[gain["lever"]].format(amount=gain["amount"]),
            f"{_ms(gain['wait_before_seconds'])} to {_ms(gain['wait_after_seconds'])}",
            _ms(gain["saved_seconds"]),
            gain["option"] or "[dim]vLLM has none[/]",
        )
    out.print(Padding(table, (1, 0, 0, 2)))


def _percent(ratio: float | None) -> str:
    return "?" if ratio is None else f"{ratio:.0%}"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.2f}"
