"""The scan of a data set: the loop over its images, and everything that it keeps of their responses."""

from pipeline.activations.channel_statistics import Statistics
from pipeline.activations.heap import Activations

__all__ = ["Activations", "Statistics"]
