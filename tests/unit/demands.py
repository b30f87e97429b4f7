"""What the tests of lines replay."""

from __future__ import annotations

import numpy as np

from analyzers.convoy import NOBODY, Demand
from analyzers.intervals import Times


def as_they_came(arrival_ns: Times, service_ns: Times) -> Demand:
    """Return requests that come when they did, whatever happens to others."""
    nobody = np.full(len(arrival_ns), NOBODY, np.intp)
    return Demand(arrival_ns, service_ns, nobody, np.zeros(len(arrival_ns), np.int64))


def together(count: int, service_ns: int) -> Demand:
    """Return requests that come at the same time, all served for as long."""
    return as_they_came(np.zeros(count, np.int64), np.full(count, service_ns, np.int64))
