"""JobResults: what a finished job left, for Python and notebooks."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import Fault, MissingInput, UnknownLayer, UnknownName, WrongSpec, foreign_errors
from pipeline.receipt import read_receipt
from pipeline.store.files import named_file
from pipeline.store.places import Place, Remote, place
from pipeline.store.tables import INDEX

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from PIL.Image import Image

    from pipeline.attribution.map_files import StoredMap


class JobResults:
    """The results of a finished job, read when they are asked for.

    Every table of the index is an attribute, a pandas DataFrame: `results.activations`, `results.channels`, `results.fields`.
    docs/results.md describes their columns. In a notebook, the results show their layers, and a channel its patches.
    """

    def __init__(self, folder: str | os.PathLike[str] | Place, temporary: Any = None) -> None:
        """Open a job's folder, local or remote.

        Args:
            temporary: what removes the folder when these results are gone; they keep it.

        Raises: WrongSpec, for a folder that holds no job.
        """
        self.folder = folder if isinstance(folder, Path | Remote) else place(folder)
        self.receipt = read_receipt(self.folder, any_format=True)
        self._temporary = temporary
        self._frames: dict[str, pd.DataFrame] = {}

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name.startswith("_") or name not in INDEX:
            raise AttributeError(f"results have no {name!r}; tables: {', '.join(INDEX)}")
        if name not in self._frames:
            from pipeline.report.job_reader import DAMAGED, whole_table

            with foreign_errors(Fault, f"index/{name}.parquet of {self.folder}", DAMAGED):
                try:
                    table, _ = whole_table(self.folder, name)
                except FileNotFoundError:
                    raise MissingInput(
                        f"{self.folder} has no index/{name}.parquet: the stage that writes it has not run."
                    ) from None
                self._frames[name] = table.to_pandas()
        return self._frames[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *INDEX]

    @property
    def layers(self) -> list[str]:
        """The layers that the job looked at, in the network's order."""
        return list(self.receipt.layers)

    @property
    def page(self) -> Place:
        """The job's web page. Raises: MissingInput, where it has none."""
        page = self.folder / "report" / "index.html"
        if not page.exists():
            raise MissingInput(f"{self.folder} has no page. Make it: convscope report {self.folder}")
        return page

    def channel(self, layer: str, channel: int) -> ChannelView:
        """One channel: its winners, patches, patterns and statistics. Raises: UnknownLayer; UnknownName, for the number."""
        if layer not in self.layers:
            raise UnknownLayer.among(layer, self.layers, where="a layer of this job")
        rows = self.channels[(self.channels["layer"] == layer) & (self.channels["channel"] == channel)]
        if rows.empty:
            count = int((self.channels["layer"] == layer).sum())
            raise UnknownName(f"channel {channel} of {layer} is not among the {count:,} that the job looked at. Name another.")
        return ChannelView(self, layer, channel, {str(name): value for name, value in rows.iloc[0].items()})

    def image(self, which: int | str) -> ImageView:
        """One image in which some channel has a winner, by example or by key. Raises: UnknownName, for any other."""
        column = "key" if isinstance(which, str) else "example"
        rows = self.images[self.images[column] == which]
        if rows.empty:
            raise UnknownName(f"no image with the {column} {which!r} has a winner. results.images lists those that have.")
        return ImageView(self, {str(name): value for name, value in rows.iloc[0].items()})

    def maps(self, method: str = "gradcam", layer: str | None = None) -> Iterator[StoredMap]:
        """The attribution maps that `gradcam.arrays = true` stored, in the order of the images; a few are in memory at a time.

        Args:
            method: as in `gradcam.methods`.
            layer: for a method that looks at a layer's maps: which; None, or the null of a DataFrame, where the job explained but
                one layer.

        Returns: maps with `example`, `key`, `target`, `number` and `values`, float32 (h, w) or (h, w, 3).

        Raises: MissingInput, for a job that stored none of these; WrongSpec, where several layers have maps and none is named.
        """
        from pipeline.attribution.map_files import read_maps

        if not isinstance(layer, str):
            rows = self.attributions
            layers = sorted(rows[rows["method"] == method]["layer"].dropna().unique())
            if len(layers) > 1:
                raise WrongSpec(f"{self.folder} has maps of {method!r} at {', '.join(layers)}. Name one of these layers.")
            layer = layers[0] if layers else None
        return read_maps(self.folder, method, layer)

    def __repr__(self) -> str:
        return (
            f"<results of {self.receipt.name}: {self.receipt.examples:,} examples, {len(self.layers)} layers, in {self.folder}>"
        )

    def _repr_html_(self) -> str:
        channels = self.channels.groupby("layer", sort=False)
        rows = [(str(name), len(group), int(group["dead"].sum())) for name, group in channels]
        cells = "".join(f"<tr><td>{html.escape(name)}</td><td>{count:,}</td><td>{dead:,}</td></tr>" for name, count, dead in rows)
        head = "<tr><th>layer</th><th>channels</th><th>never fire</th></tr>"
        return f"<b>{html.escape(self.receipt.name)}</b>: {self.receipt.examples:,} examples<table>{head}{cells}</table>"


@dataclass(frozen=True, eq=False)
class ChannelView:
    """One channel of a job's results; it shows itself in a notebook.

    statistics: its row of index/channels.parquet, by column.
    """

    results: JobResults
    layer: str
    channel: int
    statistics: dict[str, Any]

    @cached_property
    def winners(self) -> pd.DataFrame:
        """Its strongest responses, the strongest first: rows of index/activations.parquet."""
        rows = self.results.activations
        return rows[(rows["layer"] == self.layer) & (rows["channel"] == self.channel)].reset_index(drop=True)

    @cached_property
    def name(self) -> str | None:
        """The concept that names it; None where none does, or the stage `concepts` has not run."""
        from pipeline.report.job_reader import JobReader

        row = JobReader(self.results.folder).names(self.layer).get(self.channel)
        return None if row is None else str(row["concept"])

    @cached_property
    def patches(self) -> list[Image]:
        """The patches of its winners, in their order."""
        from pipeline.report.job_reader import JobReader

        table = JobReader(self.results.folder).pictures("crops", self.layer, ("channel", "rank", "image"))
        rows = [] if table is None else [row for row in table.to_pylist() if row["channel"] == self.channel]
        return [_picture(row["image"]["bytes"]) for row in sorted(rows, key=lambda row: row["rank"])]

    @cached_property
    def patterns(self) -> list[Image]:
        """Its pattern by gradient ascent, if the stage `patterns` has run."""
        from pipeline.report.job_reader import JobReader

        table = JobReader(self.results.folder).patterns(self.layer)
        rows = [] if table is None else [row for row in table.to_pylist() if row["channel"] == self.channel]
        return [_picture(row["image"]["bytes"]) for row in rows]

    def __repr__(self) -> str:
        return f"<channel {self.channel} of {self.layer}: {len(self.winners)} winners>"

    def _repr_html_(self) -> str:
        scores = [f"{score:.3g}" for score in self.winners["score"]]
        captions = [f"{score} {key}" for score, key in zip(scores, self.winners["key"], strict=True)]
        state = " It never fires in these images." if self.statistics["dead"] else ""
        tiles = _tiles(self.patches, captions) + _tiles(self.patterns, ["pattern"] * len(self.patterns))
        name = f": {html.escape(self.name)}" if self.name else ""
        return f"<b>{html.escape(self.layer)} / {self.channel}{name}</b>{state}<div>{tiles}</div>"


@dataclass(frozen=True, eq=False)
class ImageView:
    """One image of a job's results; it shows itself in a notebook.

    facts: its row of index/images.parquet, by column.
    """

    results: JobResults
    facts: dict[str, Any]

    @property
    def picture(self) -> Image:
        """The image, small."""
        return _picture(self.facts["image"]["bytes"])

    @cached_property
    def wins(self) -> pd.DataFrame:
        """The channels of which it is a winner: rows of index/activations.parquet, the first ranks first."""
        rows = self.results.activations
        return rows[rows["example"] == self.facts["example"]].sort_values(["rank", "layer", "channel"]).reset_index(drop=True)

    def __repr__(self) -> str:
        return f"<image {self.facts['key']}: a winner of {_channels(len(self.wins))}>"

    def _repr_html_(self) -> str:
        first = [f"{row.layer} / {row.channel} (rank {row.rank})" for row in self.wins.head(10).itertuples()]
        label = f", {self.facts['label']}" if isinstance(self.facts["label"], str) and self.facts["label"] else ""
        words = html.escape(f"{self.facts['key']}{label}: a winner of {_channels(len(self.wins))}: {', '.join(first)}")
        return f"<div>{_tiles([self.picture], [''], None)}</div>{words}"


class Explanation:
    """Why a network decided as it did for one image; it shows itself in a notebook.

    Attributes:
        map: float32 (height, width) of the layer that the method looks at, or of the network's input; (height, width, 3) for
            maps in colours.
        target: what is explained, in words.
        picture: the map over the image.
    """

    def __init__(self, results: JobResults, method: str) -> None:
        """Read what a job on a single image has left. Raises: MissingInput."""
        stored = next(results.maps(method))
        row = results.attributions.iloc[0]
        self.map: np.ndarray = stored.values
        self.target, self.method = stored.target, method
        self.picture = _picture(named_file(results.folder, row["picture"]).read_bytes())

    def __repr__(self) -> str:
        return f"<{self.method} of {self.target}>"

    def _repr_html_(self) -> str:
        return _tiles([self.picture], [f"{self.method} of {self.target}"], None)


def open(folder: str | os.PathLike[str]) -> JobResults:
    """The results of the job in a folder. Raises: WrongSpec, for a folder that holds no job."""
    return JobResults(folder)


def _channels(count: int) -> str:
    return f"{count:,} channel{'s' if count != 1 else ''}"


def _picture(data: bytes) -> Image:
    import PIL.Image

    from pipeline.drawing.pixels import FORMATS, check_size
    from pipeline.report.job_reader import DAMAGED

    with foreign_errors(Fault, "a picture of the job", DAMAGED):
        check_size(data)
        picture = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
        picture.load()
    return picture


def _tiles(pictures: list[Image], captions: list[str], side: int | None = 96) -> str:
    """Pictures side by side, as HTML that holds them, in tiles of so many pixels; None: as large as they are."""
    tiles = []
    for picture, caption in zip(pictures, captions, strict=False):
        data = io.BytesIO()
        picture.save(data, "PNG")
        source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
        words = html.escape(caption)
        box = f"width:{side + 16}px;" if side else ""
        size = f"width:{side}px;height:{side}px;object-fit:contain;image-rendering:pixelated" if side else ""
        style = f"display:inline-block;{box}margin:2px;vertical-align:top;text-align:center;font-size:75%;overflow-wrap:anywhere"
        image = f'<img src="{source}" alt="{words}" style="{size}">'
        tiles.append(f'<figure style="{style}">{image}<figcaption>{words}</figcaption></figure>')
    return "".join(tiles)
