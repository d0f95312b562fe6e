"""Gradient ascent on pixels, shared by patterns and dreams: objectives, parametrization, transforms, regularizers, loop."""
