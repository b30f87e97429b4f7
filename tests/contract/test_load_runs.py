"""A load is what was asked for: its prompts, its names, its hooks, its results, its command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request

import pyarrow.compute as pc
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from collectors.schema import WARM_UP
from profiler.load.endpoint import Endpoint, ServerRefuses
from profiler.load.results import STREAM_FILE, read_rows
from profiler.load.runner import run_scenario
from profiler.load.scenario import Kind, WarmUp
from profiler.load.site import Site
from profiler.load.summary import summarize
from profiler.load.token_count import TokenizerInvalid
from profiler.load.words import PromptInexact
from tests.commands import run_cputax
from tests.flaky import TEMPLATE_TOKENS, scenario, site_of, url_of


@pytest.mark.parametrize("how", ["ok", "no_tokenize"])
@pytest.mark.parametrize("kind", Kind)
def test_prompts_are_as_long_as_the_servers_own_count_says(flaky, tmp_path, how, kind):
    # Given a server that has /tokenize, or tells by its usage only
    site = Site(Endpoint(url_of(flaky, how), model="tiny"))
    load = scenario(kind=kind, users=3, requests=12, prompt_chars=None, prompt_tokens=50)

    # When it is loaded with prompts of 50 tokens
    results = run_scenario(load, site, tmp_path / "out")

    # Then each has them
    counts = summarize(results)["prompt_tokens"]
    assert counts == {"asked": 50, "counted_count": 12, "exact_count": 12}


def test_a_tokenizer_file_counts_where_the_server_does_not(flaky, tmp_path):
    file = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer(models.WordLevel({"so": 0}, unk_token="so"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(file))
    load = scenario(users=1, requests=2, prompt_chars=None, prompt_tokens=50)
    endpoint = Endpoint(url_of(flaky, "no_count"), model="tiny")

    with pytest.raises(PromptInexact):
        run_scenario(load, Site(endpoint), tmp_path / "without")
    rows = run_scenario(load, Site(endpoint, tokenizer=tmp_path), tmp_path / "with").rows

    # The file knows no chat template.
    assert rows["prompt_tokens"].to_pylist() == [50 + TEMPLATE_TOKENS] * 2


def test_a_file_that_is_no_tokenizer_is_a_bad_input(flaky, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    load = scenario(users=1, requests=2, prompt_chars=None, prompt_tokens=50)
    site = Site(Endpoint(url_of(flaky), model="tiny"), tokenizer=tmp_path)

    with pytest.raises(TokenizerInvalid):
        run_scenario(load, site, tmp_path / "out")


def test_a_prompt_that_the_server_refuses_is_told_in_its_words_before_the_load(flaky, tmp_path):
    load = scenario(users=1, requests=2, prompt_chars=None, prompt_tokens=600)

    with pytest.raises(ServerRefuses, match="longer than the context"):
        run_scenario(load, site_of(url_of(flaky, "no_tokenize")), tmp_path / "out")


def test_each_request_has_a_name_that_the_server_sees(flaky, tmp_path):
    results = run_scenario(
        scenario(users=2, requests=10, warm_up=WarmUp(2)),
        Site(Endpoint(url_of(flaky))),
        tmp_path / "out",
    )

    with urllib.request.urlopen(url_of(flaky, "ok/seen")) as answer:
        seen = json.load(answer)
    assert results.model == "flaky"
    assert len(set(results.rows["request"].to_pylist())) == 12
    assert set(results.rows["request"].to_pylist()) <= set(seen)
    assert summarize(results)["requests"]["warm_up_count"] == 2
    assert results.client is not None
    assert read_rows(tmp_path / "out").equals(results.rows)
    assert not (tmp_path / "out" / STREAM_FILE).exists()


def test_an_api_key_opens_the_server_and_is_written_nowhere(flaky, tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-Secret")

    ended = run_cputax(
        "load", "run", "--url", url_of(flaky, "with_key"), "--api-key-env", "A_KEY",
        "--prompt-tokens", 20, "-n", 3, "-o", tmp_path / "out",
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    assert "3 answered, 0 failed" in ended.stdout
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert b"sk-Secret" not in written + ended.stdout.encode() + ended.stderr.encode()


def test_the_hooks_enclose_what_counts_and_not_the_warm_up(flaky, tmp_path):
    times_ns: list[int] = []

    def note() -> None:
        times_ns.append(time.monotonic_ns())

    load = scenario(users=2, batches=2, warm_up=WarmUp(2))
    results = run_scenario(load, site_of(url_of(flaky)), tmp_path / "out", before=note, after=note)

    before_ns, after_ns = times_ns
    for row in results.rows.to_pylist():
        is_inside = before_ns <= row["time_ns"] and row["done_ns"] <= after_ns
        assert is_inside == (row["scenario"] != WARM_UP)


def test_every_word_of_the_help_is_understood(flaky, tmp_path):
    ended = run_cputax(
        "load", "run", "--url", url_of(flaky), "--kind", "completion", "--arrivals", "burst",
        "--rate", 100, "--prompt-tokens", 20, "--max-tokens", 4, "-n", 20, "--stop-at-eos",
        "--warm-up", 1, "--seed", 3, "--timeout", "20s", "--repeatable", "--shared-prompt",
        "-o", tmp_path / "out", "--json",
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert summary["requests"]["ok_count"] == 20
    assert summary["requests"]["warm_up_count"] == 1
    assert summary["scenario"]["kind"] == "completion"
    assert summary["lag_seconds"] is not None
    times_ns = read_rows(tmp_path / "out").filter(pc.field("scenario") == "run")["time_ns"]
    # A burst of sixteen, and the beginning of the next.
    assert len(set(times_ns.to_pylist())) == 2


@pytest.mark.parametrize(
    "options",
    [["--users", 2, "--rate", 3], ["-n", 1, "-d", "3s"], ["--rate", 3, "--batches", 2],
     ["--prompt-tokens", 1, "--prompt-chars", 1], ["--rate", 0], ["--kind", "telepathy"]],
)  # fmt: skip
def test_options_that_contradict_each_other_are_wrong_usage(options):
    ended = run_cputax("load", "run", "--url", "http://127.0.0.1:9", *options)

    assert ended.returncode == 2
    assert "Error" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_matrix_is_a_table_and_a_directory_for_each_scenario(flaky, tmp_path):
    scenarios = tmp_path / "load.toml"
    scenarios.write_text(
        "[defaults]\nprompt_tokens = 200\nmax_tokens = 40\n"
        "[[scenario]]\nname = 'closed'\nusers = 2\nbatches = 2\n"
        "[[scenario]]\nname = 'open'\nrate_hz = 50\nrequests = 5\n"
    )

    ended = run_cputax(
        "load", "matrix", "--url", url_of(flaky), "--scenarios", scenarios, "--scale", 0.1,
        "-o", tmp_path / "out",
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    assert max(map(len, ended.stdout.splitlines())) <= 100
    for name, count in (("closed", 4), ("open", 5)):
        rows = read_rows(tmp_path / "out" / name)
        assert rows.num_rows == count
        assert set(rows["prompt_tokens"].to_pylist()) == {20}
        assert name in ended.stdout


def test_loading_the_command_waits_for_no_data_or_http_library():
    code = "import profiler.commands.load, sys; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {"aiohttp", "pyarrow", "numpy", "tokenizers", "rich"} & set(modules)
