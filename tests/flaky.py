"""The flaky server (`targets/flaky_server.py`) as the load tests need it."""

from __future__ import annotations

from profiler.load.endpoint import Endpoint
from profiler.load.scenario import Scenario
from profiler.load.site import Site
from tests.programs import Program

TEMPLATE_TOKENS = 3  # what it adds to a prompt


def url_of(server: Program, how: str = "ok") -> str:
    """Return the address at which it answers, or fails, in this way."""
    return f"http://127.0.0.1:{server.hello['port']}/{how}"


def site_of(url: str) -> Site:
    """Return a site that needs no question to be known."""
    return Site(Endpoint(url, model="tiny"))


def scenario(**fields: object) -> Scenario:
    """Return a scenario of small requests."""
    return Scenario("test", max_tokens=4, **{"prompt_chars": 100, **fields})  # type: ignore[arg-type]
