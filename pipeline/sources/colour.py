"""Colour profiles: pixels of any ICC profile to sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from itertools import product

import numpy as np
import PIL.Image
import PIL.ImageCms

_SAME = 2  # steps of 255: a profile that moves no colour further is sRGB, however it is called
_PROBE = np.array(list(product(range(0, 256, 15), repeat=3)), np.uint8)[np.newaxis]


def to_srgb(image: PIL.Image.Image, profile: bytes | None) -> PIL.Image.Image:
    """An image in sRGB, as mode RGB where it had a profile, as it was where it is sRGB already.

    Colours are mapped relative to the white point. A profile that is damaged, or made for another kind of pixels, is ignored.

    Args:
        image: of 8-bit samples, without transparency.
        profile: as the file carries it; None or empty where it has none.
    """
    if not profile:
        return image
    if image.mode == "P":
        image = image.convert("RGB")
    transform = _transform(profile, image.mode)
    return image if transform is None else transform.apply(image)


@lru_cache(64)
def _transform(profile: bytes, mode: str) -> PIL.ImageCms.ImageCmsTransform | None:
    """The transform to sRGB; None where there is nothing to do, or nothing can be done."""
    try:
        transform = PIL.ImageCms.buildTransform(
            PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            PIL.ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            PIL.ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
    except Exception:  # PyCMSError, OSError and others, for what strangers write
        return None
    if mode == "RGB":
        moved = np.asarray(transform.apply(PIL.Image.fromarray(_PROBE))).astype(int) - _PROBE
        if np.abs(moved).max() <= _SAME:
            return None
    return transform
