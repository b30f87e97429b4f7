"""The server's address, and the key that is never kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from profiler.load.endpoint import ApiKeyMissing, Endpoint, UrlInvalid
from profiler.load.plan import Plan, read_plan
from profiler.load.scenario import STUDY, Kind
from profiler.load.scenario_file import read_scenarios
from profiler.load.words import WordPool

KEY = "sk-very-secret"


@pytest.mark.parametrize("url", ["http://h:8000", "http://h:8000/", "http://h:8000/v1"])
def test_a_base_url_may_end_in_v1(url):
    assert Endpoint(url).at(Kind.CHAT.path) == "http://h:8000/v1/chat/completions"


def test_a_path_before_the_api_is_kept():
    address = Endpoint("https://h/models/a/v1/").at(Kind.COMPLETION.path)

    assert address == "https://h/models/a/v1/completions"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h", "http://", "", "8000"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UrlInvalid):
        Endpoint(url)


def test_the_key_is_read_when_it_is_used_and_never_kept(monkeypatch, tmp_path):
    # Given a plan for a server that wants a key
    monkeypatch.setenv("SOME_KEY", KEY)
    endpoint = Endpoint("http://h", "tiny", "SOME_KEY")
    pool = WordPool(("so", "on"), 3)
    plan = Plan(endpoint, read_scenarios(STUDY)[0], pool, "run", "nonce", Path("rows"))

    # When it is handed to the load process
    line = plan.to_line()

    # Then the name of the variable goes along, not its value, and all else as it was
    assert KEY not in line.decode()
    assert read_plan(line) == plan
    assert json.loads(line)["endpoint"]["api_key_env"] == "SOME_KEY"
    assert endpoint.headers()["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(endpoint)


def test_a_missing_key_is_named(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)

    with pytest.raises(ApiKeyMissing, match="SOME_KEY"):
        Endpoint("http://h", api_key_env="SOME_KEY").headers()
