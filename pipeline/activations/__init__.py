"""The heaps of strongest responses, and the one loop over the data that fills them."""

from pipeline.activations.heap import Activations
from pipeline.activations.statistics import Statistics

__all__ = ["Activations", "Statistics"]
