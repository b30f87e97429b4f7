"""The study read again: its arithmetic on the figures kept in the project, and what it prints."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = EXAMPLES / "reanalyse_study.py"


def run(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script in a process of its own, after the Python statements of ``before``."""
    program = f"{before}\nimport runpy\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    command = [sys.executable, "-c", program] if before else [sys.executable, str(SCRIPT)]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def text() -> str:
    done = run()
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    done = run("--json")
    assert done.returncode == 0, done.stderr
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("study_data.figures")


def row(document: dict[str, Any], label: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in document["scenarios"] if one["label"] == label)
    return found


def concurrent(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in document["scenarios"] if one["user_count"] > 1]


# -- the claim and the counters


def test_the_claim_stands_beside_the_counters_that_refute_it(document: dict[str, Any]) -> None:
    worst = row(document, "conc32_100k")
    assert worst["study"]["scheduling_and_queue_ms"] == pytest.approx(3665, abs=1)
    assert worst["study"]["share_of_headers_ratio"] == pytest.approx(0.94, abs=0.005)
    assert worst["counters"]["queue_ms"] == pytest.approx(0.04, abs=0.005)
    assert worst["counters"]["prefill_ms"] == pytest.approx(1515, abs=1)
    assert worst["counters"]["outside_engine_ms"] == pytest.approx(4113, abs=1)


def test_the_subtraction_gives_what_the_study_published(document: dict[str, Any]) -> None:
    published = document["published_claim"]
    found = row(document, published["label"])["study"]
    assert round(found["isolated_tokenization_ms"]) == published["tokenization_ms"]
    # It took JSON and hashing off too, and rounded.
    difference_ms = found["scheduling_and_queue_ms"] - published["scheduling_and_queue_ms"]
    assert 0 <= difference_ms < 10
    assert round(found["share_of_headers_ratio"], 2) == published["share_of_time_to_headers"]


def test_a_queue_wait_that_the_file_does_not_keep_is_unknown_but_bounded(
    document: dict[str, Any],
) -> None:
    counters = row(document, "conc16_32k")["counters"]
    assert counters["queue_ms"] is None
    assert counters["queue_at_most_ms"] == pytest.approx(1 / 48)


# -- the law


def test_one_throughput_meets_every_concurrent_scenario_within_a_fifth(
    document: dict[str, Any],
) -> None:
    assert document["law"]["tokens_per_second"] == pytest.approx(511_566, abs=1)
    assert document["law"]["holds"]
    errors = {one["label"]: one["law"]["error_ratio"] for one in concurrent(document)}
    assert {label: round(error, 3) for label, error in errors.items()} == {
        "conc4_8k": -0.124,
        "conc16_32k": 0.111,
        "conc32_32k": 0.091,
        "conc32_100k": -0.057,
    }


def test_it_meets_what_it_was_not_fitted_to(document: dict[str, Any]) -> None:
    for one in concurrent(document):
        assert abs(one["law"]["held_out_error_ratio"]) <= 0.2
        assert abs(one["law"]["other_run_error_ratio"]) <= 0.2


def test_a_constant_helps_the_shortest_scenario(document: dict[str, Any]) -> None:
    law = row(document, "conc4_8k")["law"]
    assert abs(law["with_constant_error_ratio"]) < abs(law["error_ratio"])
    assert document["law_with_constant"]["constant_ms"] == pytest.approx(2.6, abs=0.05)


def test_single_users_alone_predict_the_medians_of_the_crowd(document: dict[str, Any]) -> None:
    for one in concurrent(document):
        assert abs(one["single_users_median_error_ratio"]) <= 0.05
    # and not all the means: said, not hidden
    assert row(document, "conc16_32k")["single_users_error_ratio"] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("constant_ms", [0.0, 7.0])
def test_the_fit_finds_the_throughput_that_made_the_figures(
    figures: ModuleType, constant_ms: float
) -> None:
    truth = figures.Law(200_000.0, constant_ms)
    scenarios = [
        figures.Scenario(
            label="made", user_count=users, prompt_tokens=tokens,
            headers_ms=truth.predict_ms(users, tokens), headers_median_ms=0.0, ttft_ms=0.0,
            study_cpu_percent=0.0, isolated_tokens=0, isolated_ms=0.0, server_ttft_ms=0.0,
            server_prefill_ms=0.0, server_queue_ms=None, server_queue_at_most_ms=0.0,
        )
        for users, tokens in ((1, 2_000.0), (1, 9_000.0), (8, 5_000.0), (32, 50_000.0))
    ]  # fmt: skip
    assert figures.fit(scenarios, constant_ms).tokens_per_second == pytest.approx(200_000)
    singles = figures.fit_singles(scenarios[:2])
    assert singles.tokens_per_second == pytest.approx(200_000)
    assert singles.constant_ms == pytest.approx(constant_ms, abs=1e-6)


# -- what is printed


def test_the_text_fits_a_hundred_columns(text: str) -> None:
    assert max(map(len, text.splitlines())) <= 100


def test_the_text_names_claim_counter_and_law(text: str) -> None:
    first = next(line for line in text.splitlines() if line.startswith("conc32_100k"))
    assert first.split() == [
        "conc32_100k",
        *("14.9", "3,885", "220", "3,665", "94%"),
        *("0.04", "1,515", "4,113"),
    ]
    assert "users x tokens / 511,566 tokens/s" in text
    law_rows = [line for line in text.splitlines() if " yes " in line]
    assert len(law_rows) == 4


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_the_plot_is_an_image(tmp_path: Path, suffix: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib")
    image = tmp_path / f"study{suffix}"
    done = run("--plot", str(image))
    assert done.returncode == 0, done.stderr
    content = image.read_bytes()
    assert content.startswith(magic)
    if suffix == ".svg":
        assert "queue 0.04 ms" in content.decode()


def test_a_plot_without_matplotlib_says_what_to_install(tmp_path: Path) -> None:
    missing = f"import sys; sys.modules['matplotlib'] = None; sys.path.insert(0, {str(EXAMPLES)!r})"
    done = run("--plot", str(tmp_path / "study.svg"), before=missing)
    assert done.returncode == 4
    assert "pip install matplotlib" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plot_that_cannot_be_written_says_where_and_why(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = run("--plot", str(tmp_path / "nowhere" / "study.png"))
    assert done.returncode == 4
    assert "nowhere/study.png (ENOENT)" in done.stderr


def test_a_plot_of_another_kind_is_refused(tmp_path: Path) -> None:
    done = run("--plot", str(tmp_path / "study.txt"))
    assert done.returncode == 2
    assert "must end with .svg or .png" in done.stderr
