"""Dreams: what a channel, a class or a picture becomes when the network's own gradient changes the pixels."""

from pipeline.ascent.objectives import Objective, channel, direction, layer, logit, neuron

__all__ = ["Objective", "channel", "direction", "layer", "logit", "neuron"]
