"""Picking: a few images, by example or key from the data set, or from files outside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from pipeline.drawing.pixels import shrink
from pipeline.errors import MissingInput, UnusableData, WrongSpec
from pipeline.geometry import Box
from pipeline.sources.companions import Companions
from pipeline.sources.decode import DEFAULT_DECODER, Decoder, Unreadable
from pipeline.sources.files import length
from pipeline.sources.fit import Fit
from pipeline.sources.readable import PassedOver, fetch_readable
from pipeline.sources.source import Image, Shard, Source, drawn
from pipeline.sources.windows import without_window
from pipeline.spec.picks import Picks
from pipeline.store import remote

LONGEST_PICTURE = 1600  # pixels of the longer side of a picked image, as it is drawn


@dataclass(frozen=True, eq=False)
class Picked:
    """One image as it is stored, and as the network sees it.

    example: its number in the data set; None for a file.
    fitted: uint8 (height, width, 3) at the network's input size, as it is drawn.
    picture: what was fitted, uint8 (h, w, 3), reduced for drawing; None where `image` has its own pixels, and empty ones else.
    fed: float32 (height, width, bands), what the network is given, where that is not what is drawn.
    size: height and width of the whole source image, where `image` has not its own pixels.
    """

    example: int | None
    image: Image
    fitted: np.ndarray
    picture: np.ndarray | None = None
    fed: np.ndarray | None = None
    size: tuple[int, int] | None = None

    @property
    def source_size(self) -> tuple[int, int]:
        """Height and width of the whole source image."""
        return self.size or (self.image.pixels.shape[0], self.image.pixels.shape[1])

    @property
    def source_key(self) -> str:
        """The key of the whole source image, of which a window is a part."""
        return without_window(self.image.key)

    @property
    def given(self) -> np.ndarray:
        """The image as the network takes it, (height, width, bands)."""
        return self.fitted if self.fed is None else self.fed

    @property
    def drawn(self) -> np.ndarray:
        """The fitted image as it is drawn: uint8 (h, w, 3)."""
        return self.image.seen if self.picture is None else self.picture


def pick(
    source: Source, fit: Fit, picks: Picks, longest: int = LONGEST_PICTURE, passed_over: PassedOver | None = None
) -> Iterator[Picked]:
    """The picked images: those of the data set by example, each once, then the files in their order; one in memory at a time.

    Where none is named, they are the first few examples that can be read. Files are taken whole, however the data set's
    images are cut into windows; their key is their path.

    Args:
        longest: pixels of the longer side of the pictures: a batch of large images would not fit into memory.
        passed_over: takes the examples that cannot be read, where none is named.

    Raises: WrongSpec, MissingInput, as `check_picks` does; UnusableData, for an image named that cannot be read; TooManyBad, as
        `PassedOver` does.
    """
    check_picks(source, picks, "the images picked")
    chosen = bool(picks.examples or picks.keys or picks.files)
    first = _first_readable(source, picks.first, passed_over or PassedOver())
    for example, image in source.fetch(_examples(source, picks)) if chosen else first:
        yield _picked(example, image, fit, longest)
    for path in dict.fromkeys(picks.files):
        pixels, samples = _read(path, source.decoder)
        yield _picked(None, Image(path, None, pixels, Box.whole(*pixels.shape[:2]), samples), fit, longest)


def pick_readable(source: Source, fit: Fit, examples: Iterable[int], passed_over: PassedOver) -> Iterator[Picked]:
    """The examples that can be read, in the order in which they are given; one in memory at a time.

    Raises: TooManyBad, as `PassedOver` does.
    """
    for asked in examples:
        for example, image in fetch_readable(source, [int(asked)], passed_over):
            yield _picked(example, image, fit, LONGEST_PICTURE)


def named(picked: Iterable[Picked]) -> Iterator[tuple[Picked, str]]:
    """Each image and the name of its pictures: by its example, or by its number among the files and its file's name."""
    files = 0
    for image in picked:
        if image.example is not None:
            yield image, f"example-{image.example}"
        else:
            yield image, f"file-{files}-{re.sub(r'[^A-Za-z0-9._-]', '_', PurePosixPath(image.image.key).stem)[:60]}"
            files += 1


def count_picks(source: Source, picks: Picks) -> int:
    """The number of images picked, if all can be read."""
    chosen = len(_examples(source, picks)) + len(set(picks.files))
    return chosen or min(picks.first, len(source))


def check_picks(source: Source, picks: Picks, where: str) -> None:
    """Find out before work starts what cannot be picked; images are looked up, not read.

    Args:
        where: the table of the spec, for the errors.

    Raises: WrongSpec, for an example or a key that the data set does not have; MissingInput, for a file.
    """
    beyond = [example for example in picks.examples if example >= len(source)]
    if beyond:
        raise WrongSpec(
            f"{where}: example {beyond[0]} is not there; examples run from 0 to {len(source) - 1}. "
            "Name a lower one, or raise data.limit."
        )
    for key in picks.keys:
        if source.find(key) is None:
            raise WrongSpec(
                f"{where}: no example has the key {key!r}. The column `key` of the index lists them, "
                f"such as {_first_key(source)!r}."
            )
    if picks.files and isinstance(source, Companions):
        raise WrongSpec(
            f"{where}: files have no values for the network's other inputs, which are given by column or source. "
            "Pick examples or keys of the data set."
        )
    check_files(picks.files, where)


def check_files(paths: Iterable[str], where: str) -> None:
    """Find image files that are not there. Args: where: the key of the spec, for the error. Raises: MissingInput."""
    for path in paths:
        if length(path if remote.is_remote(path) else remote.local_path(path)) < 0:
            raise MissingInput(f"{where}: the image file {path!r} is missing. Name one that exists.")


def digest_file(path: str) -> str:
    """A short hexadecimal digest of the content of a file, by path or address; "" where it cannot be read."""
    try:
        return hashlib.sha256(remote.read(path)).hexdigest()[:16]
    except OSError:
        return ""


def _picked(example: int | None, image: Image, fit: Fit, longest: int) -> Picked:
    seen = image.seen
    fitted = fit.apply(seen)
    fed = None if image.samples is None and image.packed is None else image.given(fit)
    if max(seen.shape[:2]) <= longest:
        return Picked(example, replace(image, samples=None), fitted, fed=fed)
    without_pixels = replace(image, pixels=np.empty((0, 0, 3), np.uint8), samples=None)
    return Picked(example, without_pixels, fitted, shrink(seen, longest), fed, (image.pixels.shape[0], image.pixels.shape[1]))


def _examples(source: Source, picks: Picks) -> list[int]:
    by_key = (source.find(key) for key in picks.keys)
    return sorted({*picks.examples, *(example for example in by_key if example is not None)})


def _first_readable(source: Source, count: int, passed_over: PassedOver) -> Iterator[tuple[int, Image]]:
    """The first few images that can be read. Only where one cannot are those after it looked through before they are fetched."""
    last = -1
    try:
        for last, image in source.fetch(range(min(count, len(source)))):
            yield last, image
            count -= 1
    except UnusableData:
        readable: list[int] = []
        for element in drawn(source.stream(Shard(), last + 1).as_numpy_iterator()):
            if element["error"]:
                passed_over.add(element["key"].decode(), element["error"].decode())
            else:
                readable.append(int(element["example"]))
            if len(readable) == count:
                break
        yield from source.fetch(readable)


def _first_key(source: Source) -> str:
    return next(drawn(source.stream(Shard()).as_numpy_iterator()))["key"].decode()


def read_picture(path: str, decoder: Decoder = DEFAULT_DECODER) -> np.ndarray:
    """The pixels of an image file: uint8 RGB (h, w, 3). Raises: MissingInput, UnusableData."""
    return _read(path, decoder)[0]


def read_picked(path: str, decoder: Decoder, fit: Fit) -> np.ndarray:
    """An image file as a network is given it. Raises: MissingInput, UnusableData."""
    pixels, samples = _read(path, decoder)
    return Image(path, None, pixels, Box.whole(*pixels.shape[:2]), samples).given(fit)


def _read(path: str, decoder: Decoder) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        return decoder.read(remote.read(path))
    except OSError as error:
        raise MissingInput(f"the image file {path!r} cannot be read ({error.strerror or error}). Name another.") from None
    except Unreadable as error:
        raise UnusableData(f"the image file {path!r} cannot be read: {error}. Replace it, or name another.") from None
