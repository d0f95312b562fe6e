"""Graphs as TF1 wrote them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tensorflow as tf


@pytest.fixture
def conditions_of_tf1() -> Iterator[None]:
    """Conditions as Switch and Merge, which TF1 wrote."""
    tf.compat.v1.disable_control_flow_v2()
    yield
    tf.compat.v1.enable_control_flow_v2()
