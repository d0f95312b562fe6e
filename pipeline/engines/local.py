"""The local engine: one process, shard after shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.models.network import Network
from pipeline.sources.source import Source

if TYPE_CHECKING:
    from pipeline.activations.part import Part
    from pipeline.activations.scan import Meter, Plan, Progress


def scan_all(network: Network, source: Source, plan: Plan, progress: Progress) -> tuple[Part, Meter]:
    """Scan the whole source in this process."""
    from pipeline.activations.scan import scan

    return scan(network, source, plan, progress=progress)
