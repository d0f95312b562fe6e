"""A picture of one attribution map of a job, made when it is asked for: from the stored map or, where there is none, anew."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipeline.attribution.map_files import FOLDER, StoredMap, name_of, read_maps
from pipeline.attribution.pictures import ExplanationPictures
from pipeline.errors import MissingInput, UnknownName, WrongSpec, foreign_errors
from pipeline.load import parse_spec
from pipeline.models.head import describe
from pipeline.progress import Reporter
from pipeline.receipt import Receipt, read_receipt
from pipeline.sources.fit import Fit
from pipeline.sources.picking import pick
from pipeline.sources.registry import open_source
from pipeline.spec import JobSpec
from pipeline.spec.picks import Picks
from pipeline.store.files import file_name, named_file, write_bytes
from pipeline.store.places import Place
from pipeline.store.tables import read_index

ON_DEMAND = "on-demand"  # below mosaics/gradcam
_OF_ALL_IMAGES = {"examples", "keys", "files", "sanity", "objects", "aggregate", "arrays"}  # keys of a job, not of one picture

Row = dict[str, Any]


@dataclass(frozen=True)
class AskedPicture:
    """Which map is to be drawn.

    image: the key of an example, its number, or the path of a file.
    method, layer, target: as in the index; None for the job's first. A target may be the number or name of a class, too.
    """

    image: str
    method: str | None = None
    layer: str | None = None
    target: str | None = None


def draw_picture(folder: Place, asked: AskedPicture, reporter: Reporter) -> Place:
    """Draw one map over its image, without the network if the map is stored. Returns: the path of the picture.

    Raises: WrongSpec, for a folder without a job; MissingInput; and what explaining an image raises.
    """
    receipt = read_receipt(folder)
    spec = parse_spec(dict(receipt.spec), f"run.json of {folder}")
    with foreign_errors(MissingInput, f"the maps of {folder}", "Run the stage gradcam again."):
        row = _row_of(folder, asked)
        stored = None if row is None or row["picture"] is not None else _stored(folder, row)
    if row is not None and row["picture"] is not None:
        with foreign_errors(MissingInput, f"the picture {row['picture']!r}", "Run the stage gradcam again."):
            return named_file(folder, row["picture"])
    if row is None or stored is None:
        reporter.say("no such map is stored; the network explains the image anew.")
        return _explained_anew(folder, spec, asked, row, reporter)
    return _drawn_from_map(folder, receipt, spec, row, stored)


def _row_of(folder: Place, asked: AskedPicture) -> Row | None:
    """The row of index/attributions.parquet that is asked for; None where there is none."""
    try:
        table = read_index(folder, "attributions")
    except FileNotFoundError:
        return None
    match = pc.equal(table["key"], asked.image)
    if not pc.any(match).as_py() and asked.image.isdecimal():
        match = pc.equal(table["example"], int(asked.image))
    rows = table.filter(match).to_pylist()
    for column, value in (("method", asked.method), ("layer", asked.layer)):
        rows = [row for row in rows if value in (None, row[column])]
    names = ("target", "name", "class")
    return next((row for row in rows if asked.target in (None, *(str(row[name]) for name in names))), None)


def _stored(folder: Place, row: Row) -> StoredMap | None:
    if not (folder / FOLDER / name_of(row["method"], row["layer"])).exists():
        return None
    same = ("example", "key", "target", "logits")
    maps = read_maps(folder, row["method"], row["layer"], row["key"])
    return next((stored for stored in maps if all(getattr(stored, name) == row[name] for name in same)), None)


def _drawn_from_map(folder: Place, receipt: Receipt, spec: JobSpec, row: Row, stored: StoredMap) -> Place:
    height, width, channels = receipt.input
    fit = Fit(height, width, spec.data.resize)
    source = open_source(spec.data, fit, False, channels)
    picks = Picks(files=[row["key"]]) if row["example"] is None else Picks(examples=[row["example"]])
    picked = next(iter(pick(source, fit, picks)))
    if picked.image.key != row["key"]:
        raise MissingInput(
            f"example {row['example']} is {picked.image.key!r} now, not {row['key']!r}. Restore the data, or run the job again."
        )
    form = source.decoder.form
    bands = (0, 1, 2) if form is None else form.rgb
    pictures = ExplanationPictures(folder / "mosaics" / "gradcam" / ON_DEMAND, [], fit, bands=bands, sides=spec.gradcam.evidence)
    words = describe(row["head"], row["probability"], row["output"])
    key = (row["method"], row["layer"])
    paths = pictures.add(picked, file_name(row["target"]), f"{row['target']}  {words}", {key: stored.values})
    pictures.close()
    return folder / paths[key]


def _explained_anew(folder: Place, spec: JobSpec, asked: AskedPicture, row: Row | None, reporter: Reporter) -> Place:
    """The stage `gradcam` of the job for one image, method and target, in a folder of its own, of which the picture is kept."""
    from pipeline.options import RunOptions
    from pipeline.run import run

    if spec.model.trusted or spec.model.custom is not None:  # the folder says so, and may be a stranger's
        raise WrongSpec(
            f"run.json of {folder} lets the network run Python code (model.trusted or model.custom), which no picture needs to. "
            "Name the image in gradcam.keys of your own spec, and run its stage gradcam."
        )
    changes: dict[str, Any] = spec.gradcam.model_dump(mode="json", exclude_defaults=True, exclude=_OF_ALL_IMAGES)
    changes |= _image(asked, row) | {"pictures": "all", "batch": 1}
    changes["methods"] = [row["method"] if row else asked.method or spec.gradcam.methods[0]]
    if row is None:  # of what the job has not explained, or has left out
        changes |= {"through": [], "merge": False}
        changes |= {} if asked.layer is None else {"layers": [asked.layer]}
    a_class = {} if asked.target is None else {"targets": [int(asked.target) if asked.target.isdecimal() else asked.target]}
    tree = spec.model_dump(mode="json", exclude_defaults=True) | {"stages": ["gradcam"]}
    own = [target for target in changes.get("targets", []) if isinstance(target, dict)]
    with tempfile.TemporaryDirectory() as temporary:

        def explain(targets: Row) -> Place:
            asked_for = parse_spec(tree | {"gradcam": changes | targets}, "the picture")
            return run(asked_for, temporary, reporter=reporter, options=RunOptions())

        try:
            made, same = explain(a_class if row is None else {}), {}
        except UnknownName:  # it may be the title of a target that has a table of its own
            if row is not None or not own:
                raise
            made, same = explain({"targets": own}), {"target": asked.target}
        if row is not None:
            same = {name: row[name] for name in ("method", "layer", "target")}
        rows = [
            candidate
            for candidate in read_index(made, "attributions").to_pylist()
            if all(candidate[name] == value for name, value in same.items())
        ]
        if not rows:
            raise MissingInput(_why_none(asked, read_receipt(made), "target" in same and row is None))
        picture: str = rows[0]["picture"]
        path = folder / "mosaics" / "gradcam" / ON_DEMAND / picture.removeprefix("mosaics/gradcam/")
        write_bytes(path, (made / picture).read_bytes())
    return path


def _why_none(asked: AskedPicture, made: Receipt, titled: bool) -> str:
    """Why the image has no map, by what the stage said as it explained it.

    Args:
        titled: whether all targets with a table of their own were explained, of which one may have the title that is asked for.
    """
    record = made.stages["gradcam"].model_dump()
    blanks = [sentence for sentence in record.get("blanks", []) if "left out" in sentence]
    if titled:
        blanks = [sentence for sentence in blanks if str(asked.target) in sentence]
    of = f"{asked.image!r}: no map{'' if asked.target is None else f' of {asked.target!r}'}"
    if record["nans"]:
        return f"{of}: the network's logits are NaN or infinite for this image. Name another."
    if blanks:
        return f"{of} can be drawn. {blanks[0]} Name another method or --target."
    return f"{of}: that is no class, and no title of a target that gradcam.targets gives this image. Name another with --target."


def _image(asked: AskedPicture, row: Row | None) -> Row:
    if row is not None and row["example"] is not None:
        return {"examples": [row["example"]]}
    if Path(asked.image).is_file() or row is not None:
        return {"files": [asked.image]}
    return {"examples": [int(asked.image)]} if asked.image.isdecimal() else {"keys": [asked.image]}
