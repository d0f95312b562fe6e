"""How a network runs: compiled passes, freezing, micro-batches, precision, gradients, and the two doors to private APIs."""
