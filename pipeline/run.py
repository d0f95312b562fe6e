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
    spec: JobSpec, out: str | os.PathLike[str] = "out", stages: Sequence[str] = (), reporter: Reporter | None = None
) -> Place:
    """Run a job: every stage of the spec, or those named, whose results are not there yet.

    Args:
        out: the results go to OUT/name; a folder, or an address that fsspec knows.
        stages: run these alone, even where their results are there.

    Returns: the job's folder.
    Raises: any ConvscopeError.
    """
    from pipeline.stages import STAGES

    for stage in stages:
        if stage not in spec.stages:
            raise UnknownName.among(stage, spec.stages, where="a stage of this spec")
    folder = place(out) / spec.name
    reporter = reporter or Reporter(spec.name)
    with hold(folder, reporter.say):
        sweep(folder)
        job = open_job(spec, folder, reporter)
        receipt = _receipt(job, _read_receipt(folder))
        wanted = [stage for stage in STAGES if stage in spec.stages]
        waiting = [stage for stage in wanted if stage in stages or (not stages and stage not in receipt["stages"])]
        if not waiting:
            reporter.say(f"{folder} is finished: nothing to do. Results for other settings go to another --out or name.")
            return folder
        for stage in waiting:
            receipt["stages"].pop(stage, None)
            receipt["state"] = "running"
            write_json(folder / "run.json", receipt)
            started = time.time()
            found = STAGES[stage].run(job)
            receipt["stages"][stage] = {"started": _utc(started), "seconds": round(time.time() - started, 1), **found}
        if all(stage in receipt["stages"] for stage in spec.stages):
            receipt["state"] = "finished"
        write_json(folder / "run.json", receipt)
    return folder


def open_job(spec: JobSpec, folder: Place, reporter: Reporter, fetch: bool = True) -> Job:
    """Open the network and the data of a spec and hold them against each other, before any work is done.

    Args:
        fetch: whether a data set that is not there yet may be downloaded and prepared.

    Raises: any WrongSpec.
    """
    start_tensorflow()
    from pipeline.job import Job
    from pipeline.models.opening import open_network, select_layers
    from pipeline.sources.fit import Fit
    from pipeline.sources.opening import open_source

    network = open_network(spec.model)
    layers = tuple(select_layers(network, spec.model.layers))
    channels = spec.activations.channels
    if channels != "all":
        for layer in layers:
            if max(channels) >= layer.channels:
                raise WrongSpec(
                    f"activations.channels names channel {max(channels)}, but {layer.name} has {layer.channels} "
                    f"(0 to {layer.channels - 1}). Name lower ones, or fewer layers."
                )
    if "patterns" in spec.stages:
        from pipeline.dream.wanted import check_patterns

        check_patterns(spec.patterns, network, layers)
    fit = Fit(network.input_shape[0], network.input_shape[1], spec.data.resize)
    source = open_source(spec.data, fit, fetch)
    job = Job(spec, network, layers, source, fit, folder, reporter)
    if "dream" in spec.stages:
        from pipeline.dream.subjects import check_dream

        check_dream(job)
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
            from pipeline.models.tap import prepare_devices

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
    receipt = _read_receipt(folder)
    if receipt is None:
        raise WrongSpec(f"{folder} holds no job: there is no run.json. Name a folder that `convscope run` made.")
    return receipt


def _read_receipt(folder: Place) -> dict[str, Any] | None:
    try:
        receipt = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise WrongSpec(f"{folder / 'run.json'} cannot be read ({error}). Remove it to run the job anew.") from None
    if receipt.get("format") != FORMAT:
        raise WrongSpec(f"{folder} is of format {receipt.get('format')}, this version writes {FORMAT}. Choose another --out.")
    return receipt


def _receipt(job: Job, old: dict[str, Any] | None) -> dict[str, Any]:
    """A new receipt, with what the old one says of stages whose network, data and tables of the spec are the same."""
    from pipeline.stages import STAGES

    new: dict[str, Any] = {
        "format": FORMAT,
        "name": job.spec.name,
        "state": "running",
        "spec": job.spec.model_dump(mode="json"),
        "digests": {"model": job.network.digest(), "data": job.source.digest()},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "layers": [layer.name for layer in job.layers],
        "examples": len(job.source),
        "stages": {},
    }
    if old is None or old["digests"] != new["digests"]:
        return new
    for stage, done in old["stages"].items():
        tables = ("model", "data", *STAGES[stage].reads) if stage in STAGES else ()
        if tables and all(old["spec"].get(table) == new["spec"][table] for table in tables):
            new["stages"][stage] = done
    if all(stage in new["stages"] for stage in job.spec.stages):
        new["state"] = old["state"]
    return new


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
