"""What the load process is told to do: one line of JSON on its standard input."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from profiler.load.endpoint import Endpoint
from profiler.load.scenario import Scenario
from profiler.load.scenario_file import from_json
from profiler.load.words import WordPool


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of a scenario.

    ``run`` names its requests; ``nonce`` makes its prompts differ from those of other runs.
    ``pool`` None: prompts are counted in characters. Rows go to ``rows_path``.
    """

    endpoint: Endpoint
    scenario: Scenario
    pool: WordPool | None
    run: str
    nonce: str
    rows_path: Path

    def to_line(self) -> bytes:
        """Return it as one line of JSON."""
        fields = asdict(self) | {"rows_path": str(self.rows_path)}
        return json.dumps(fields).encode() + b"\n"


def read_plan(line: bytes) -> Plan:
    """Return the plan that `Plan.to_line` wrote."""
    fields = json.loads(line)
    pool = fields["pool"]
    return Plan(
        endpoint=Endpoint(**fields["endpoint"]),
        scenario=from_json(fields["scenario"]),
        pool=None if pool is None else WordPool(tuple(pool["words"]), pool["overhead_tokens"]),
        run=fields["run"],
        nonce=fields["nonce"],
        rows_path=Path(fields["rows_path"]),
    )
