"""Dreams: pictures that gradient ascent changes to excite channels, layers or classes; and the functions for objectives."""

from pipeline.ascent.objectives import Objective, channel, direction, layer, logit, neuron

__all__ = ["Objective", "channel", "direction", "layer", "logit", "neuron"]
