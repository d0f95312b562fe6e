"""One job: spec in, stages in order, folder and lock, receipt out."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pipeline.errors import UnknownName, WrongSpec
from pipeline.options import RunOptions
from pipeline.progress import Reporter
from pipeline.spec import JobSpec
from pipeline.store.files import sweep, write_json
from pipeline.store.locks import hold
from pipeline.store.places import Place, place

if TYPE_CHECKING:
    from pipeline.job import Job

FORMAT = 1  # of the folder; raised when a reader of the older one would go wrong
_PACKAGES = ("convscope", "tensorflow", "keras", "tensorflow-datasets", "numpy", "opencv-python-headless", "pyarrow")


def run(
    spec: JobSpec,
    out: str | os.PathLike[str] = "out",
    stages: Sequence[str] = (),
    reporter: Reporter | None = None,
    options: RunOptions = RunOptions(),
    anew: bool = False,
) -> Place:
    """Run a job: every stage of the spec, or those named, whose results are not there yet.

    Args:
        out: the results go to OUT/name; a folder, or an address that fsspec knows.
        stages: run these alone, even where their results are there.
        options: who scans, how often what was found is saved, whether data that grew are scanned from where they grew.
        anew: forget what earlier runs have saved and finished.

    Returns: the job's folder.
    Raises: any ConvscopeError.
    """
    for stage in stages:
        if stage not in spec.stages:
            raise UnknownName.among(stage, spec.stages, where="a stage of this spec")
    folder = place(out) / spec.name
    reporter = reporter or Reporter(spec.name)
    with hold(folder, reporter.say):
        sweep(folder)
        finish(open_job(spec, folder, reporter, options=options), stages, anew)
    return folder


def finish(job: Job, stages: Sequence[str] = (), anew: bool = False) -> None:
    """Run the stages of an open job, as `run` does; the caller holds its folder. Raises: any ConvscopeError."""
    from pipeline.stages import STAGES

    folder = job.folder
    receipt = new_receipt(job, None if anew else find_receipt(folder))
    wanted = [stage for stage in STAGES if stage in job.spec.stages]
    waiting = [stage for stage in wanted if stage in stages or (not stages and stage not in receipt["stages"])]
    if not waiting:
        job.reporter.say(nothing_to_do(folder))
        return
    for stage in waiting:
        STAGES[stage].prepare(job, anew or stage in receipt["stages"])
    for stage in waiting:
        receipt["stages"].pop(stage, None)
        receipt["state"] = "running"
        write_json(folder / "run.json", receipt)
        # How long is told by a clock that nobody sets, when by the one on the wall.
        files, started, began = _files(job, stage), time.time(), time.monotonic()
        found = STAGES[stage].run(job)
        told = {"started": _utc(started), "seconds": round(time.monotonic() - began, 1), **found}
        receipt["stages"][stage] = told | ({"file_digests": files} if files else {})
    if all(stage in receipt["stages"] for stage in job.spec.stages):
        receipt["state"] = "finished"
    write_json(folder / "run.json", receipt)


def nothing_to_do(folder: Place) -> str:
    """What is said of a finished job."""
    return f"{folder} is finished: nothing to do. Results for other settings go to another --out or name."


def open_job(spec: JobSpec, folder: Place, reporter: Reporter, fetch: bool = True, options: RunOptions = RunOptions()) -> Job:
    """Open the network and the data of a spec and hold them against each other, before any work is done.

    Args:
        fetch: whether a data set that is not there yet may be downloaded and prepared.

    Raises: any WrongSpec.
    """
    start_tensorflow()
    from pipeline.engines.registry import check_engine
    from pipeline.job import Job, open_data
    from pipeline.models.registry import open_network, select_layers
    from pipeline.stages import STAGES

    check_engine(options)
    network = open_network(spec.model)
    layers = tuple(select_layers(network, spec.model.layers))
    source, fit = open_data(spec, network, fetch)
    job = Job(spec, network, layers, source, fit, folder, reporter, options)
    if spec.model.labels is not None:
        job.class_names()
    for stage in spec.stages:
        STAGES[stage].check(job)
    return job


def start_tensorflow() -> None:
    """Import TensorFlow and let GPU memory grow as needed.

    Its C++ side greets every start with lines on standard error that no setting stops; they are held back,
    and shown if the start fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as greeting:
        kept = os.dup(2)
        os.dup2(greeting.fileno(), 2)
        try:
            from pipeline.compiled.compile import prepare_devices

            prepare_devices()
        except BaseException:
            greeting.seek(0)
            os.write(kept, greeting.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def read_receipt(folder: Place) -> dict[str, Any]:
    """The receipt of a job's folder. Raises: WrongSpec, where there is none."""
    receipt = find_receipt(folder)
    if receipt is None:
        raise WrongSpec(f"{folder} holds no job: there is no run.json. Name a folder that `convscope run` made.")
    return receipt


def find_receipt(folder: Place) -> dict[str, Any] | None:
    """The receipt of a folder, or None. Raises: WrongSpec, for one that is damaged, or of another format."""
    try:
        receipt = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise WrongSpec(f"{folder / 'run.json'} cannot be read ({error}). Remove it to run the job anew.") from None
    if not isinstance(receipt, dict):
        raise WrongSpec(f"{folder / 'run.json'} is no receipt of a job. Remove it to run the job anew.")
    if receipt.get("format") != FORMAT:
        raise WrongSpec(
            f"{folder} is of format {receipt.get('format')}, this version writes {FORMAT}. Choose another --out, "
            "or show and finish it with the version that wrote it."
        )
    return receipt


def new_receipt(job: Job, old: dict[str, Any] | None) -> dict[str, Any]:
    """A new receipt, with what the old one says of stages whose network, data and tables of the spec are the same."""
    from pipeline.stages import STAGES

    new: dict[str, Any] = {
        "format": FORMAT,
        "name": job.spec.name,
        "state": "running",
        "spec": job.spec.model_dump(mode="json"),
        "digests": job.digests,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "input": list(job.network.input_shape),
        "layers": [layer.name for layer in job.layers],
        "examples": len(job.source),
        "stages": {},
    }
    if old is None or old["digests"] != new["digests"]:
        return new
    for stage, done in old["stages"].items():
        tables = ("model", "data", *STAGES[stage].tables) if stage in STAGES else ()
        same = tables and all(old["spec"].get(table) == new["spec"][table] for table in tables)
        if same and done.get("file_digests", {}) == _files(job, stage):
            new["stages"][stage] = done
    return new


def _files(job: Job, stage: str) -> dict[str, str]:
    """The digests of the files, beside data and weights, on which a stage's results depend: a name may come to hold others."""
    from pipeline.spec.picks import Picks
    from pipeline.stages import STAGES

    tables = (getattr(job.spec, table, None) for table in STAGES[stage].tables)
    named = [path for table in tables if isinstance(table, Picks) for path in table.files]
    labels = job.spec.model.labels
    if STAGES[stage].names_classes and labels in job.file_digests:
        named.append(labels)
    return {path: job.file_digests[path] for path in named}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
