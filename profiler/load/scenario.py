"""A scenario: who asks, how often, for how much."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from collectors.errors import CputaxError, ExitCode
from profiler.load.arrivals import Arrivals

STUDY: Final = Path(__file__).parent / "scenarios" / "study.toml"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # a directory and a row are named so
_ABOVE_ZERO: Final = (
    "users", "rate_hz", "burst_count", "prompt_tokens", "prompt_chars", "max_tokens", "requests",
    "seconds", "batches", "timeout_s",
)  # fmt: skip


class ScenarioInvalid(CputaxError):
    """A scenario does not say who asks, how much, or for how long, or says it twice."""

    slug = "scenario-invalid"
    exit_code = ExitCode.BAD_INPUT

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(
            f"scenario {name!r}: {problem}",
            f"compare it with the ones that cputax ships: {STUDY}",
        )


class Kind(StrEnum):
    """Which endpoint is asked."""

    CHAT = "chat"
    COMPLETION = "completion"

    @property
    def path(self) -> str:
        """The endpoint's path below the server's base URL."""
        return "/v1/chat/completions" if self is Kind.CHAT else "/v1/completions"


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Requests sent one after another before anything counts; sizes None: the scenario's own."""

    requests: int = 0
    prompt_tokens: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load. Either ``users`` (closed loop) or ``rate_hz`` (open loop).

    It ends after so many ``requests``, ``seconds`` or ``batches``; in a batch each user asks once,
    all at the same time, and the next batch begins when all have their answer.

    Raises:
        ScenarioInvalid: it cannot be run as it is.
    """

    name: str
    kind: Kind = Kind.CHAT
    users: int | None = None
    rate_hz: float | None = None
    arrivals: Arrivals = Arrivals.POISSON
    burst_count: int = 16  # requests in a burst
    prompt_tokens: int | None = None  # as the server counts them, its chat template included
    prompt_chars: int | None = None  # instead, when nobody can count tokens
    max_tokens: int = 64
    ignore_eos: bool = True  # so that each answer is max_tokens long; not every server knows it
    requests: int | None = None
    seconds: float | None = None
    batches: int | None = None
    warm_up: WarmUp = field(default_factory=WarmUp)
    seed: int = 0
    shared_prompt: bool = False  # one prompt for all, which the prefix cache will hold
    timeout_s: float = 600.0  # from when a request is due to the end of its answer

    def __post_init__(self) -> None:
        from collectors.schema import WARM_UP  # not above: it is slow, and help waits for this file

        if not _NAME.fullmatch(self.name) or self.name == WARM_UP:
            raise ScenarioInvalid(self.name, "its name must be letters, digits, '.', '_' or '-'")
        self._need_one_of("users", "rate_hz")
        self._need_one_of("prompt_tokens", "prompt_chars")
        self._need_one_of("requests", "seconds", "batches")
        if self.batches is not None and self.users is None:
            raise ScenarioInvalid(self.name, "batches need users")
        warm_up = self.warm_up
        sizes: dict[str, float | None] = {name: getattr(self, name) for name in _ABOVE_ZERO}
        sizes |= {
            "warm_up.requests": warm_up.requests + 1,
            "warm_up.prompt_tokens": warm_up.prompt_tokens,
            "warm_up.max_tokens": warm_up.max_tokens,
        }
        for name, value in sizes.items():
            if value is not None and not 0 < value < math.inf:
                raise ScenarioInvalid(self.name, f"{name} is too small or too large")

    def _need_one_of(self, *names: str) -> None:
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ScenarioInvalid(self.name, f"give one of {', '.join(names)}")

    @property
    def is_open(self) -> bool:
        """Whether requests are sent on a schedule, whatever becomes of earlier ones."""
        return self.rate_hz is not None

    @property
    def request_count(self) -> int | None:
        """How many requests it sends; None when time ends it."""
        if self.batches is not None and self.users is not None:
            return self.batches * self.users
        return self.requests

    def scaled(self, scale: float) -> Scenario:
        """Return it with prompts and answers ``scale`` times as long; the users stay."""

        def size(count: int | None) -> int | None:
            return None if count is None else max(1, round(count * scale))

        warm_up = self.warm_up
        return replace(
            self,
            prompt_tokens=size(self.prompt_tokens),
            prompt_chars=size(self.prompt_chars),
            max_tokens=max(1, round(self.max_tokens * scale)),
            warm_up=replace(
                warm_up,
                prompt_tokens=size(warm_up.prompt_tokens),
                max_tokens=size(warm_up.max_tokens),
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as `scenario_file.from_json` takes it."""
        return asdict(self)
