"""Colour profiles, formats that not every machine reads, and images of other than one or three bands."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest

from pipeline.errors import WrongSpec
from pipeline.load import parse_spec
from pipeline.sources import colour
from pipeline.sources import decode as decoding
from pipeline.sources.decode import Decoder, Unreadable, size
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.spec.data import DataSpec

tifffile = pytest.importorskip("tifffile")

SCENE = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)


def encoded(pixels: np.ndarray, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def npy(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, samples)
    return file.getvalue()


def tiff(samples: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, photometric="minisblack", **{"planarconfig": "contig", **options})
    return file.getvalue()


def swapped_profile() -> bytes:
    """A profile like sRGB whose red and green primaries are swapped: no viewer could miss it."""
    profile = bytearray(PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12)}
    red, green = tags[b"rXYZ"] + 4, tags[b"gXYZ"] + 4
    profile[red : red + 8], profile[green : green + 8] = profile[green : green + 8], profile[red : red + 8]
    return bytes(profile)


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_colours_of_a_profile_become_srgb(format: str, options: dict[str, Any]) -> None:
    pixels = Decoder().decode(encoded(SCENE, format, icc_profile=swapped_profile(), **options))
    assert np.abs(pixels.astype(int) - SCENE[..., [1, 0, 2]]).max() <= 2


def test_colours_under_transparency_and_of_16_bits_become_srgb_too() -> None:
    alpha = np.full((20, 30, 1), 255, np.uint8)
    pixels = Decoder().decode(encoded(np.concatenate([SCENE, alpha], 2), "PNG", icc_profile=swapped_profile()))
    assert np.abs(pixels.astype(int) - SCENE[..., [1, 0, 2]]).max() <= 2


def test_what_is_srgb_by_its_profile_keeps_every_bit() -> None:
    srgb = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(Decoder().decode(encoded(SCENE, "PNG", icc_profile=srgb)), SCENE)


def with_space(space: bytes) -> bytes:
    return swapped_profile()[:16] + space + swapped_profile()[20:]


@pytest.mark.parametrize(
    ("profile", "what"),
    [
        (b"junk", "damaged"),
        (swapped_profile()[:200], "damaged"),
        (swapped_profile()[:131] + b"\xff" * 300, "damaged"),
        (with_space(b"CMYK"), "for CMYK in an image of RGB"),
        (with_space(b"GRAY"), "for GRAY in an image of RGB"),
    ],
)
def test_a_profile_that_cannot_be_used_is_ignored_and_said(profile: bytes, what: str) -> None:
    colour.ignored_profiles()
    for _ in range(2):
        assert np.array_equal(Decoder().decode(encoded(SCENE, "WEBP", lossless=True, icc_profile=profile)), SCENE)
    said = f"colour profiles: 1 ignored ({what}); the colours of their images are taken as sRGB"
    assert (colour.ignored_profiles(), colour.ignored_profiles()) == ([said], [])


def test_grey_with_a_profile_for_rgb_becomes_srgb() -> None:
    steep = bytearray(swapped_profile())
    tags = {bytes(steep[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(steep[128:132], "big"), 12)}
    curve = int.from_bytes(steep[tags[b"rTRC"] + 4 : tags[b"rTRC"] + 8], "big")
    steep[curve + 12 : curve + 16] = (65536).to_bytes(4, "big")  # the exponent of all three: light as it is, not as it is seen
    grey = np.full((8, 8), 128, np.uint8)
    pixels = Decoder().decode(encoded(grey, "JPEG", quality=95, icc_profile=bytes(steep)))
    assert np.ptp(pixels) <= 2 and pixels.mean() > 140


@pytest.mark.skipif(not PIL.features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read() -> None:
    smooth = np.broadcast_to(np.arange(30, dtype=np.uint8)[None, :, None] * 8, (20, 30, 3)).copy()
    pixels = Decoder().decode(encoded(smooth, "AVIF", quality=95))
    assert pixels.shape == SCENE.shape and np.abs(pixels.astype(int) - smooth).mean() < 8


@pytest.mark.parametrize(("brand", "words"), [(b"heic", "a HEIC image"), (b"mif1", "a HEIC image"), (b"avif", "an AVIF image")])
def test_formats_that_this_machine_does_not_read_are_named_in_skipped(
    write: Any, listed: Any, monkeypatch: pytest.MonkeyPatch, brand: bytes, words: str
) -> None:
    monkeypatch.setattr(decoding, "_formats", lambda: ("PNG",))
    folder = write("a.heic", b"\0\0\0\x18ftyp" + brand + bytes(40)).parent
    reason = listed(open_source(DataSpec(source=f"folder:{folder}"), Fit(8, 8)))[0][4]
    assert reason.startswith(words) and "takes" in reason


BANDS = np.random.default_rng(5).integers(0, 256, (20, 30, 6), np.uint8)


@pytest.mark.parametrize("count", [2, 4, 5, 6])
@pytest.mark.parametrize("write_samples", [npy, tiff])
def test_the_three_named_bands_are_shown_as_rgb(count: int, write_samples: Any) -> None:
    data = write_samples(BANDS[..., :count])
    shown = (count - 1, 0, 1)
    assert np.array_equal(Decoder(bands=shown).decode(data), BANDS[..., shown])
    assert size(io.BytesIO(data)) == (20, 30)


@pytest.mark.parametrize("write_samples", [npy, tiff])
def test_16_bits_of_a_band_are_scaled(write_samples: Any) -> None:
    assert np.array_equal(Decoder(bands=(0, 1, 2)).decode(write_samples(BANDS.astype(np.uint16) * 257)), BANDS[..., :3])


def test_bands_one_after_the_other_and_columns_first_are_read() -> None:
    planar = tiff(np.ascontiguousarray(np.moveaxis(BANDS, -1, 0)), planarconfig="separate")
    assert np.array_equal(Decoder(bands=(4, 5, 0)).decode(planar), BANDS[..., [4, 5, 0]])
    assert np.array_equal(Decoder(bands=(4, 5, 0)).decode(npy(np.asfortranarray(BANDS))), BANDS[..., [4, 5, 0]])


@pytest.mark.parametrize("write_samples", [npy, tiff])
def test_bands_that_nothing_names_are_asked_for(write_samples: Any) -> None:
    with pytest.raises(Unreadable, match=r"has 6 bands; set data\.bands to the three to show, such as \[0, 1, 2\]"):
        Decoder().decode(write_samples(BANDS))
    with pytest.raises(Unreadable, match=r"has 6 bands, 0 to 5, and data\.bands names 6"):
        Decoder(bands=(0, 1, 6)).decode(write_samples(BANDS))


@pytest.mark.parametrize("pixels", [SCENE, SCENE[..., 0]])
def test_arrays_of_one_or_three_bands_need_no_names(pixels: np.ndarray) -> None:
    expected = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)
    assert np.array_equal(Decoder().decode(npy(pixels)), expected)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.zeros((4, 5, 6, 3), np.uint8), r"volumes \(3D\) are not read"),
        (np.zeros((3, 50, 60), np.uint8), "bands first"),
        (np.zeros((5, 6, 3), np.float32), "unknown range"),
        (np.zeros((0, 6, 3), np.uint8), "without pixels"),
        (np.array([{"a": 1}]), "no whole .npy|axes"),
    ],
)
def test_arrays_that_are_no_images_say_why(samples: np.ndarray, words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        Decoder().decode(npy(samples))


def test_an_array_that_breaks_off_or_lies_about_its_shape_is_unreadable() -> None:
    data = npy(SCENE)
    with pytest.raises(Unreadable, match="breaks off"):
        Decoder().decode(data[:-1])
    with pytest.raises(Unreadable, match=r"data\.max_pixels"):
        Decoder().decode(data.replace(b"(20, 30, 3)", b"(99999, 99999, 3)"))


def test_arrays_in_a_folder_are_examples(tmp_path: Path, listed: Any) -> None:
    np.save(tmp_path / "a.npy", BANDS)
    source = open_source(DataSpec(source=f"folder:{tmp_path}", bands=(5, 3, 1)), Fit(20, 30))
    assert listed(source)[0][3:] == (BANDS[..., [5, 3, 1]].tobytes(), "")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch", 10**19),
        ("batch", 10**9),
        ("max_pixels", 10**19),
        ("limit", 10**19),
        ("window", {"size": 10**19, "stride": 1}),
        ("window", {"size": 1, "stride": 10**19}),
        ("bands", []),
        ("rgb", [0, 1]),
        ("range", [1, 0]),
        ("range", [[0, 1], [2, 2]]),
        ("range", [0, float("inf")]),
        ("bands", [0, 1, -1]),
        ("bands", [0, 1, 10**19]),
    ],
)
def test_numbers_beyond_reason_are_refused_by_name(key: str, value: Any) -> None:
    tree = {"name": "x", "model": {"source": "keras:VGG16", "layers": "*"}, "data": {"source": "folder:x", key: value}}
    with pytest.raises(WrongSpec, match=rf"data\.{key}") as refusal:
        parse_spec(tree)
    assert len(str(refusal.value)) < 500
