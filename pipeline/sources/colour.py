"""Colour profiles: pixels of any ICC profile to sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from itertools import product

import numpy as np
import PIL.Image
import PIL.ImageCms

_SAME = 2  # steps of 255: a profile that moves no colour further is sRGB, however it is called
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # as profiles call the modes
_PROBE = np.array(list(product(range(0, 256, 15), repeat=3)), np.uint8)[np.newaxis]


def to_srgb(image: PIL.Image.Image, profile: bytes | None) -> PIL.Image.Image:
    """An image in sRGB, as mode RGB where it had a profile, as it was where it is sRGB already.

    Colours are mapped relative to the white point. A profile that is damaged, or made for another kind of pixels, is ignored,
    and `ignored_profiles` names it. Grey with a profile for RGB is RGB of three equal samples.

    Args:
        image: of 8-bit samples, without transparency.
        profile: as the file carries it; None or empty where it has none.
    """
    if not profile:
        return image
    if image.mode == "P" or (image.mode == "L" and _space(profile) == "RGB"):
        image = image.convert("RGB")
    transform = _transform(profile, image.mode)
    if isinstance(transform, str):
        _ignored.setdefault(transform, set()).add(hash(profile))
    return image if transform is None or isinstance(transform, str) else transform.apply(image)


def ignored_profiles() -> list[str]:
    """What colour profiles this process could not use since it was last asked, a line for each kind, for people."""
    lines = []
    while _ignored:
        reason, profiles = _ignored.popitem()
        lines.append(f"colour profiles: {len(profiles)} ignored ({reason}); the colours of their images are taken as sRGB")
    return sorted(lines)


def _space(profile: bytes) -> str:
    return profile[16:20].decode("latin-1").strip()


_ignored: dict[str, set[int]] = {}  # hashes, by what is wrong with them


@lru_cache(64)
def _transform(profile: bytes, mode: str) -> PIL.ImageCms.ImageCmsTransform | str | None:
    """The transform to sRGB; None where there is nothing to do; in words, why nothing can be done."""
    try:
        transform = PIL.ImageCms.buildTransform(
            PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            PIL.ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            PIL.ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
    except Exception:  # PyCMSError, OSError and others, for what strangers write
        space, target = _space(profile), _SPACES.get(mode, mode)
        known = space in ("RGB", "GRAY", "CMYK", "Lab", "XYZ") and space != target
        return f"for {space} in an image of {target}" if known else "damaged"
    if mode == "RGB":
        moved = np.asarray(transform.apply(PIL.Image.fromarray(_PROBE))).astype(int) - _PROBE
        if np.abs(moved).max() <= _SAME:
            return None
    return transform
