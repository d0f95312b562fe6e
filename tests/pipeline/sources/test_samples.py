"""Samples: images of any bands and types become what a network is given, and are shown by the bands that the spec names."""

from __future__ import annotations

import gc
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile

from pipeline.errors import UnusableData, WrongSpec
from pipeline.sources.bands import SampleForm, read_array
from pipeline.sources.decode import Decoder, Unreadable
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec

SAMPLES = np.random.default_rng(0).uniform(-100, 4000, (10, 14, 6))


def npy(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, samples)
    return file.getvalue()


def tiff(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, photometric="minisblack", planarconfig="contig")
    return file.getvalue()


@pytest.mark.parametrize("write", [npy, tiff])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.float32, np.float64])
def test_a_range_scales_samples_of_any_type_and_cuts_nothing_off(write: Any, dtype: Any) -> None:
    samples = np.clip(SAMPLES, *((0, 250) if dtype == np.uint8 else (0, 4000) if np.dtype(dtype).kind == "u" else (-100, 4000)))
    samples = samples.astype(dtype)
    form = SampleForm(2, (4, 1), (0, 1, 0), ((0, 1000), (-500, 3000)))
    shown, fed = Decoder(form=form).read(write(samples))
    chosen = samples[..., [4, 1]].astype(np.float64)
    expected = np.stack([chosen[..., 0] / 1000, (chosen[..., 1] + 500) / 3500], axis=-1) * 255
    assert fed is not None and fed.dtype == np.float32
    np.testing.assert_allclose(fed, expected, rtol=1e-5, atol=1e-3)
    assert dtype == np.uint8 or fed.max() > 255
    assert np.array_equal(shown, np.clip(np.rint(fed), 0, 255)[..., [0, 1, 0]])


def test_uint8_needs_no_range_and_anything_else_asks_for_one() -> None:
    form = SampleForm(6)
    pixels = np.arange(10 * 14 * 6, dtype=np.uint8).reshape(10, 14, 6)
    shown, fed = Decoder(form=form).read(npy(pixels))
    assert np.array_equal(fed, pixels) and np.array_equal(shown, pixels[..., :3])
    for samples in (pixels.astype(np.uint16), pixels.astype(np.float32)):
        with pytest.raises(Unreadable, match=r"samples are (uint16|float32), of unknown range; set data\.range"):
            Decoder(form=form).read(npy(samples))


@pytest.mark.parametrize(
    ("samples", "form", "words"),
    [
        (SAMPLES, SampleForm(4, ranges=((0, 1),)), r"has 6 bands, and the network takes 4; name them: data\.bands"),
        (SAMPLES, SampleForm(2, (1, 6), ranges=((0, 1),)), r"has 6 bands, 0 to 5, and data\.bands names 6"),
        (np.where(SAMPLES > 3900, np.nan, SAMPLES), SampleForm(2, (5, 1), ranges=((0, 1),)), "its band 5 holds NaN"),
        (np.zeros((4, 5, 6, 3)), SampleForm(3, ranges=((0, 1),)), r"volumes \(3D\) are not read"),
    ],
)
def test_images_of_other_bands_and_missing_values_say_why(samples: np.ndarray, form: SampleForm, words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        Decoder(form=form).read(npy(samples))


def test_16_bit_png_keeps_its_depth_under_a_range_and_photographs_are_three_bands() -> None:
    deep = np.arange(10 * 14, dtype=np.uint16).reshape(10, 14) * 17
    file = io.BytesIO()
    PIL.Image.fromarray(deep).save(file, "PNG")
    _, fed = Decoder(form=SampleForm(1, rgb=(0, 0, 0), ranges=((0, 4095),))).read(file.getvalue())
    assert fed is not None
    np.testing.assert_allclose(fed[..., 0], deep / 4095 * 255, rtol=1e-5)
    photograph = np.arange(10 * 14 * 3, dtype=np.uint8).reshape(10, 14, 3)
    file = io.BytesIO()
    PIL.Image.fromarray(photograph).save(file, "PNG")
    assert np.array_equal(Decoder(form=SampleForm(3, ranges=((0, 255),))).read(file.getvalue())[1], photograph)
    with pytest.raises(Unreadable, match="has 3 bands, and the network takes 4"):
        Decoder(form=SampleForm(4)).read(file.getvalue())


@pytest.mark.parametrize("window", [None, {"size": 6, "stride": 4}])
def test_streams_and_picked_images_hold_the_same_samples(tmp_path: Path, window: Any) -> None:
    np.save(tmp_path / "a.npy", SAMPLES.astype(np.float32))
    spec = DataSpec.model_validate(
        {"source": f"folder:{tmp_path}", "rgb": [5, 0, 0], "range": [0, 4000], **({"window": window} if window else {})}
    )
    fit = Fit(5, 7)
    source = open_source(spec, fit, channels=6)
    streamed = list(source.stream(Shard()).as_numpy_iterator())
    assert streamed[0]["image"].dtype == np.float32 and streamed[0]["image"].shape == (5, 7, 6)
    for element, (_, image) in zip(streamed, source.fetch(range(len(source))), strict=True):
        assert np.array_equal(element["image"], image.given(fit)) and not element["error"]
        assert image.pixels.dtype == np.uint8 and image.pixels.shape[2] == 3


def test_lists_of_numbers_in_parquet_hold_images_nested_or_flat_with_a_shape(tmp_path: Path) -> None:
    samples = [SAMPLES.astype(np.float32), SAMPLES[::-1].astype(np.float32)]
    nested = pa.array([image.tolist() for image in samples], pa.list_(pa.list_(pa.list_(pa.float32()))))
    flat = pa.array([image.ravel().tolist() for image in samples], pa.list_(pa.float32()))
    shapes = pa.array([list(image.shape) for image in samples])
    for name, table, keys in (
        ("nested", {"scene": nested}, {}),
        ("flat", {"scene": flat, "scene_shape": shapes}, {"image": "scene"}),
    ):
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
        spec = DataSpec.model_validate(
            {"source": f"parquet:{tmp_path}/{name}.parquet", "range": [0, 255], "rgb": [0, 1, 2], **keys}
        )
        for (_, image), expected in zip(open_source(spec, Fit(5, 7), channels=6).fetch([0, 1]), samples, strict=True):
            np.testing.assert_allclose(image.samples, expected, rtol=1e-4, atol=1e-3)
    with pytest.raises(UnusableData, match=r"no column of images.*set data\.range too"):
        open_source(DataSpec(source=f"parquet:{tmp_path}/nested.parquet", rgb=(0, 1, 2)), Fit(5, 7), channels=6)


@pytest.mark.parametrize(
    ("keys", "channels", "words"),
    [
        ({}, 4, r"takes 4 bands, and which .* is not said.*data\.rgb = \[0, 0, 0\]"),
        ({"bands": [1, 2, 3]}, 4, r"data\.bands = \[1, 2, 3\] names 3 bands, but the network takes 4"),
        ({"bands": [1, 2]}, 3, r"names 2 bands, but the network takes 3"),
        ({"bands": [7, 2], "rgb": [7, 2, 1]}, 2, r"data\.rgb names band 1, which the network is not given: 7, 2"),
        ({"rgb": [0, 1, 1], "range": [[0, 1], [0, 2], [0, 3]]}, 2, r"data\.range has 3 ranges, but the network takes 2"),
    ],
)
def test_bands_that_do_not_fit_the_network_are_refused_before_any_work(
    tmp_path: Path, keys: Any, channels: int, words: str
) -> None:
    np.save(tmp_path / "a.npy", SAMPLES)
    with pytest.raises(WrongSpec, match=words):
        open_source(DataSpec.model_validate({"source": f"folder:{tmp_path}", **keys}), Fit(5, 7), channels=channels)


@pytest.mark.parametrize(
    "header",
    [
        "{'shape': (4L, 3L, 2L), 'descr': '|u1', 'fortran_order': False}",  # Python 2 wrote such numbers
        '{"descr":"|u1","fortran_order":False,"shape":(4,3,2)}',
    ],
)
def test_headers_of_other_programs_are_read(header: str) -> None:
    text = header.encode().ljust(117) + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(range(24))
    assert np.array_equal(read_array(data), np.arange(24).reshape(4, 3, 2))


def test_arrays_are_read_in_threads_while_others_use_pythons_parser() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            sum(range(20))  # Python of its own: the thread may change within the parser

    def read(_: int) -> bool:
        cycles = [Cycle() for _ in range(3)]
        return bool(cycles) and np.array_equal(read_array(data), pixels)

    pixels = np.arange(10 * 14 * 6, dtype=np.uint8).reshape(10, 14, 6)
    data = npy(pixels)
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(read, range(8000)))
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*threshold)
