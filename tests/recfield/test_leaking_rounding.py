"""The fields of convolutions whose rounding leaks out of the window, as Winograd's and those by Fourier transforms do."""

from __future__ import annotations

import fast_convolutions as fast
import numpy as np
import pytest

from recfield import ReceptiveField

# channels of the layers, stride, dilation, side of the field
NETWORKS = {
    "one layer": ([8], 1, 1, 3),
    "three layers": ([6] * 3, 1, 1, 7),
    "strided": ([8] * 2, 2, 1, 7),
    "dilated": ([4] * 2, 1, 2, 9),
    "one channel": ([1], 1, 1, 3),
}


@pytest.mark.parametrize("convolve", [fast.winograd, fast.fft], ids=lambda convolve: convolve.__name__)
def test_a_fast_convolution_computes_what_a_direct_one_does_but_for_rounding(convolve: fast.Convolution) -> None:
    rng = np.random.default_rng(0)
    images, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 13, 10, 3), (3, 3, 3, 5)))
    assert convolve(images, kernel).dtype == np.float32
    np.testing.assert_allclose(convolve(images, kernel), fast.direct(images, kernel), atol=1e-4)
    louder = images.copy()
    louder[:, 0] *= 1000
    assert (convolve(louder, kernel) != convolve(images, kernel))[:, 3].any()  # the row 3 does not see the row 0


@pytest.mark.parametrize("name", NETWORKS)
def test_rounding_that_leaks_is_not_taken_for_sight(name: str) -> None:
    channels, stride, dilation, side = NETWORKS[name]
    fields = [
        ReceptiveField((8, 26, 22, 3), fast.stack(convolve, channels, stride, dilation))
        for convolve in (fast.direct, fast.winograd, fast.fft)
    ]
    assert [field.leaks for field in fields] == [False, True, True]
    assert fields[0].size == (side, side)
    for field in fields[1:]:
        assert np.array_equal(field.boxes, fields[0].boxes)


def test_channels_have_their_own_boxes_where_rounding_leaks() -> None:
    narrow, wide = fast.stack(fast.winograd, [4]), fast.stack(fast.winograd, [4] * 2)
    field = ReceptiveField((8, 26, 22, 3), lambda images: np.concatenate([narrow(images), wide(images)], axis=3))
    sizes = [np.ptp(field.channel_boxes(channel)[12, 12][[0, 2]]) for channel in range(8) if channel not in field.dead_channels]
    assert field.leaks and sizes == [3] * 4 + [5] * (len(sizes) - 4) and len(sizes) > 5


def test_a_function_without_leaks_whose_edges_are_plain_costs_no_further_probe() -> None:
    sent = []

    def forward(images: np.ndarray) -> np.ndarray:
        sent.append(len(images))
        return run(images)

    run = fast.stack(fast.direct, [8] * 3)
    assert ReceptiveField((8, 26, 22, 3), forward).probes == sum(sent) <= 48
