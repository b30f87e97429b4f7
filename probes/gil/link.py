"""The link to one GIL sampler child."""

from __future__ import annotations

from collections.abc import Iterable

from probes.gil.decode import Batch, Decoder
from probes.gil.layout import GilLayout
from probes.keeper import Keeper
from probes.sampler_link import CHILD_MAX_S, ChildLink


class SamplerLink(ChildLink[Batch]):
    """A child that samples the GILs of several processes; see `ChildLink`."""

    def __init__(
        self, keeper: Keeper, layouts: Iterable[GilLayout], *, rate_hz: float, look_hz: float,
        is_realtime: bool = False,
    ) -> None:  # fmt: skip
        """Start a child that samples ``layouts``; real-time only where that is allowed.

        Raises:
            KeeperGone: no child can be started.
        """
        priority = "realtime" if is_realtime else "normal"
        super().__init__(
            keeper, "probes.gil.sampler", [str(rate_hz), str(look_hz), str(CHILD_MAX_S), priority],
            layouts, Decoder().feed,
        )  # fmt: skip
