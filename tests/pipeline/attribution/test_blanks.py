"""Maps that show nothing are counted, and the reason is said."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from pipeline.attribution.blanks import Blanks

FLAT, SOME = np.full((4, 4), 0.5, np.float32), np.eye(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("key", "values", "sums", "largest", "words"),
    [
        (
            ("gradient", None),
            np.zeros((4, 4, 3)),
            (0.0, 0.0),
            3.0,
            "gradient: 1 of 2 maps, such as that of 'a.png' for 'dog', blank",
        ),
        (("gradcam", "end"), np.zeros((4, 4)), (0.0, -2.0), 3.0, "GradCAM at end: 1 of 2 maps, .* on the other side"),
        (("guided_gradcam", "end"), np.zeros((4, 4, 3)), (0.0, 0.0), 3.0, "multiplied by a GradCAM without evidence"),
        (("squaregrad", None), np.zeros((4, 4)), (0.0, 0.0), 1e-20, "No logit is larger than 1e-20"),
        (("expected_gradients", None), np.zeros((4, 4)), (0.0, 0.0), 3.0, "all the images .* that it starts from look the same"),
        (("lime", None), FLAT, (8.0, 0.0), 3.0, "the same value everywhere. .* single superpixel: raise gradcam.segments"),
        (("gradient", None), np.ones((4, 4, 3)) * [1, 2, 3], (96.0, 0.0), 3.0, "the same value everywhere.$"),
    ],
)
def test_a_map_that_shows_nothing_is_counted_with_its_reason(key: Any, values: Any, sums: Any, largest: Any, words: Any) -> None:
    blanks = Blanks(largest)
    blanks.add(key, values, sums, "'a.png' for 'dog'")
    blanks.add(key, SOME, (4.0, 0.0), "'b.png' for 'dog'")
    (sentence,) = blanks.sentences()
    assert re.search(words, sentence), sentence


def test_maps_that_show_something_and_maps_of_one_position_need_no_words() -> None:
    blanks = Blanks(3.0)
    blanks.add(("gradcam", "end"), SOME, (4.0, 0.0), "'a.png' for 'dog'")
    blanks.add(("gradcam", "pool"), np.ones((1, 1)), (1.0, 0.0), "'a.png' for 'dog'")
    assert blanks.sentences() == []
