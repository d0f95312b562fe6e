"""One job: spec in, stages in order, folder and lock, receipt out."""

from __future__ import annotations

import gc
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pipeline import own_process
from pipeline.errors import UnknownName, WrongSpec
from pipeline.options import RunOptions
from pipeline.progress import Reporter
from pipeline.receipt import FORMAT, Receipt, StageRecord, find_receipt, write_receipt
from pipeline.spec import JobSpec
from pipeline.spec.kinds import split_source
from pipeline.spec.model import CHOSEN
from pipeline.spec.table import Table
from pipeline.spec.writing import spec_text
from pipeline.store.files import sweep, write_bytes
from pipeline.store.locks import hold
from pipeline.store.places import Place, place

if TYPE_CHECKING:
    from pipeline.job import Job
    from pipeline.models.network import LayerInfo, Network
    from pipeline.stages.stage import Stage

_PACKAGES = ("convscope", "tensorflow", "keras", "tensorflow-datasets", "numpy", "opencv-python-headless", "pyarrow")


def run(
    spec: JobSpec,
    out: str | os.PathLike[str] = "out",
    stages: Sequence[str] = (),
    reporter: Reporter | None = None,
    options: RunOptions = RunOptions(),
) -> Place:
    """Run a job: every stage of the spec that has no results yet, or the stages that are named.

    Args:
        out: the results go to OUT/name; a folder, or an address that fsspec knows.
        stages: run only these, even if their results exist.
        options: which engine scans, how often it saves, and what becomes of the results of earlier runs.

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
        finish(open_job(spec, folder, reporter, options=options), stages)
    return folder


def finish(job: Job, stages: Sequence[str] = ()) -> None:
    """Run the stages of an open job, as `run` does; the caller holds its folder. Raises: any ConvscopeError."""
    from pipeline.sources.colour import ignored_profiles
    from pipeline.stages import STAGES

    receipt = new_receipt(job, None if job.options.anew else find_receipt(job.folder))
    waiting = [
        stage
        for name, stage in STAGES.items()
        if name in job.spec.stages and (name in stages or (not stages and name not in receipt.stages))
    ]
    if not waiting:
        job.reporter.say(nothing_to_do(job.folder))
        return
    job.say_settings()
    write_bytes(job.folder / "spec.toml", spec_text(job.spec).encode())
    for stage in waiting:
        stage.prepare(job, job.options.anew or stage.name in receipt.stages)
    for stage in waiting:
        receipt = receipt.begin([stage.name])
        write_receipt(job.folder, receipt)
        # Digested before the stage runs, because the results depend on the content of the files at that time.
        files = _file_digests(job, stage)
        started, clock = _utc_now(), time.monotonic()
        passed_over = job.passed_over.images
        passed_over.clear()  # what the checks have met
        try:
            outcome = stage.run(job)
        finally:  # they may be why a stage has too few images
            for line in [*job.passed_over.sentences(), *ignored_profiles()]:
                job.reporter.say(line)
        record = {"started": started, "seconds": round(time.monotonic() - clock, 1), **outcome}
        record |= {"passed_over": dict(passed_over)} if passed_over else {}
        receipt = receipt.end(stage.name, StageRecord.model_validate(record | ({"file_digests": files} if files else {})))
        write_receipt(job.folder, receipt)


def nothing_to_do(folder: Place) -> str:
    """The message for a job that is finished already."""
    return f"{folder} is finished: nothing to do. For other settings, choose another --out or name."


def open_job(spec: JobSpec, folder: Place, reporter: Reporter, fetch: bool = True, options: RunOptions = RunOptions()) -> Job:
    """Open the network and the data of a spec and check that they fit together, before any work is done.

    Args:
        fetch: whether a missing data set may be downloaded and prepared.

    Raises: any WrongSpec.
    """
    start_tensorflow(gpu=not options.leaves_gpus)
    from pipeline.engines.registry import check_engine
    from pipeline.inputs import open_inputs
    from pipeline.job import Job
    from pipeline.models.network import Network
    from pipeline.models.registry import open_networks
    from pipeline.sources.registry import KINDS

    check_engine(options)
    split_source(spec.data, "data", KINDS)  # a wrong kind is said before the network is opened, which takes longer
    embedding = spec.embedding_network()
    network, *others = open_networks([spec.model] if embedding is None else [spec.model, embedding])
    spec, layers = layers_of(spec, network, reporter)
    inputs = open_inputs(spec, fetch, network)
    prepared: dict[type, Any] = dict(zip((Network,), others, strict=False))
    job = Job(spec, inputs.network, layers, inputs.source, inputs.fit, folder, reporter, options, prepared)
    check_job(job)
    return job


def layers_of(spec: JobSpec, network: Network, reporter: Reporter) -> tuple[JobSpec, tuple[LayerInfo, ...]]:
    """The layers of a spec, and the spec with their names, where it left them to be chosen. Raises: UnknownLayer."""
    from pipeline.models.selection import RULE, choose_layers, select_layers

    if spec.model.layers == [CHOSEN]:
        names = choose_layers(network)
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"layers": names})})
        reporter.say(f"model.layers: {', '.join(names)} ({RULE})", setting="layers", value=names, reason=RULE)
    return spec, tuple(select_layers(network, spec.model.layers))


def check_job(job: Job) -> None:
    """Find what of an open job does not fit together, before any work is done. Raises: any WrongSpec."""
    from pipeline.stages import STAGES

    labels = job.spec.model.labels
    if labels is not None and not any(output.class_names() for output in job.outputs().values()):
        raise WrongSpec(f"model.labels = {labels!r} has as many names as no output of {job.network.name} has classes.")
    for stage in job.spec.stages:
        STAGES[stage].check(job)


def start_tensorflow(gpu: bool = True) -> None:
    """Import TensorFlow and settle how it uses the devices; see `prepare_devices`.

    TensorFlow's C++ code writes lines to the standard error at every start, which no setting prevents. They are captured,
    and written only if the start fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as captured, _uncollected() if "tensorflow" not in sys.modules else nullcontext():
        stderr = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            from pipeline.compiled.devices import prepare_devices

            prepare_devices(gpu=gpu)
        except BaseException:
            captured.seek(0)
            os.write(stderr, captured.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Python's collector is off while the block imports what stays: a fifth of the time that importing TensorFlow takes.

    In a process of our own it passes over all of that later too. In a program's, it may have to collect what was there before.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
        if own_process.is_ours:
            gc.freeze()
    finally:
        if was_on:
            gc.enable()


def new_receipt(job: Job, old: Receipt | None) -> Receipt:
    """A new receipt, which keeps the records of stages whose network, data and tables of the spec have not changed."""
    from pipeline.stages import STAGES

    receipt = Receipt(
        format=FORMAT,
        name=job.spec.name,
        state="running",
        spec=_in_force(job.spec.model_dump(mode="json"), job),
        digests=job.digests,
        versions={"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        input=list(job.network.input_shape),
        layers=[layer.name for layer in job.layers],
        examples=len(job.source),
        stages={},
        settings={key: {"value": setting.value, "reason": setting.reason} for key, setting in job.settings.items()},
    )
    if old is None or old.digests != receipt.digests:
        return receipt
    old_spec = _in_force(old.spec, job)  # an older version wrote "auto"
    for name, record in old.stages.items():
        stage = STAGES.get(name)
        if stage is not None and record.file_digests == _file_digests(job, stage):
            tables = ("model", "data", *stage.tables)
            if all(old_spec.get(table) == receipt.spec[table] for table in tables):
                receipt = receipt.end(name, record)
    return receipt.begin([])


def _in_force(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """A spec, as JSON, with what convscope chose for this network in the place of "auto"."""
    chosen = {key: setting.value for key, setting in job.network.settings.items() if spec["model"].get(key) == "auto"}
    return {**spec, "model": {**spec["model"], **chosen}}


def _file_digests(job: Job, stage: Stage) -> dict[str, str]:
    """The digests of the files, other than data and weights, on which a stage's results depend: their content may change."""
    tables = (getattr(job.spec, table) for table in stage.tables)
    paths = [path for table in tables if isinstance(table, Table) for path in table.read_files()]
    labels = job.spec.model.labels
    if stage.names_classes and labels in job.file_digests:
        paths.append(labels)
    return {path: job.file_digests[path] for path in paths}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
