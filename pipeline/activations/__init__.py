"""The heaps of strongest responses, and the one loop over the data that fills them."""

from pipeline.activations.channel_statistics import Statistics
from pipeline.activations.heap import Activations

__all__ = ["Activations", "Statistics"]
