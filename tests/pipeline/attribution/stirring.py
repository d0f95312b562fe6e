"""Random weights for the networks of these tests."""

from __future__ import annotations

from typing import Any

import numpy as np


def stir(model: Any, seed: Any = 0) -> Any:
    """Random weights of which about half are negative, so that every ReLU has something to do."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        low = 0.5 if "variance" in variable.path else -0.5
        variable.assign(random.uniform(low, low + 1, variable.shape))
    return model
