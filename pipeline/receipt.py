"""Receipt: run.json in a job's folder, which records what was run, on which data, and what is done; only this module reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.errors import WrongSpec, quoted
from pipeline.spec.job_spec import is_job_name
from pipeline.store.files import check_ends, write_json
from pipeline.store.places import Place

FORMAT = 1  # of a job's folder; incremented when readers of the older format would misread it
_FILE = "run.json"


class _Record(BaseModel):
    """Part of a receipt. Unknown keys are kept; values of unexpected types are errors."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class StageRecord(_Record):
    """The record of a stage that has run. convscope itself reads the keys that are declared here.

    started: when, in UTC, as ISO 8601. seconds: how long it took.
    summary: the stage's summary, a sentence for people.
    file_digests: by path, of the files, other than data and weights, on which the results depend.
    nans: values that were NaN, by layer. scan_seconds: where the time of the scan went.
    """

    started: str = ""
    seconds: float = 0.0
    summary: str | None = Field(default=None, validation_alias=AliasChoices("summary", "told"))
    file_digests: dict[str, str] = {}
    images: int | None = None
    skipped: int = 0
    nans: dict[str, int] = {}
    precision: str = "float32"
    images_per_second: float | None = None
    scan_seconds: dict[str, float] = {}
    fields_seconds: float = 0.0
    writing_seconds: float = 0.0
    gpu_busy: float | None = None


class _Source(_Record):
    source: str


class _Spec(_Record):
    """The keys that the readers of a receipt need from a spec of any version."""

    stages: list[str]
    model: _Source
    data: _Source


class Receipt(_Record):
    """The content of run.json.

    spec: the whole spec, as JSON, with what convscope chose in the place of "auto". settings: why, by the key of [model]:
        {"preprocess": {"value": "caffe", "reason": "VGG16"}}.
    digests: of the network, as `model`, and of the examples, as `data`.
    versions: of Python and of the packages that matter, by name; None for one that is not installed.
    input: height, width and channels of the network's input. layers: names. examples: how many there are.
    stages: those that have run, by name.
    """

    format: int
    name: str
    state: Literal["running", "finished"]
    spec: dict[str, Any]
    digests: dict[str, str]
    versions: dict[str, str | None]
    input: list[int]
    layers: list[str]
    examples: int
    stages: dict[str, StageRecord]
    settings: dict[str, dict[str, str]] = {}

    @field_validator("settings")
    @classmethod
    def _have_reasons(cls, value: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        if not all({"value", "reason"} <= setting.keys() for setting in value.values()):
            raise ValueError("a setting has no value, or no reason")
        return value

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not is_job_name(value):
            raise ValueError("is no job's name")
        return value

    @field_validator("spec")
    @classmethod
    def _is_a_spec(cls, value: dict[str, Any]) -> dict[str, Any]:
        _Spec.model_validate(value)
        return value

    def begin(self, stages: Iterable[str]) -> Receipt:
        """The receipt of a run that is about to replace the results of some stages."""
        again = set(stages)
        others = {name: record for name, record in self.stages.items() if name not in again}
        return self.model_copy(update={"state": "running", "stages": others})

    def end(self, stage: str, record: StageRecord) -> Receipt:
        """The receipt after a stage has run; the job is finished if no stage is missing."""
        stages = {**self.stages, stage: record}
        finished = all(name in stages for name in self.spec["stages"])
        return self.model_copy(update={"state": "finished" if finished else "running", "stages": stages})

    def as_json(self) -> dict[str, Any]:
        """The keys and values of run.json."""
        return self.model_dump(mode="json", exclude_unset=True)


def write_receipt(folder: Place, receipt: Receipt) -> None:
    """Write run.json, aside and renamed. Raises: StoreFailed."""
    write_json(folder / _FILE, receipt.as_json())


def read_receipt(folder: Place, any_format: bool = False) -> Receipt:
    """The receipt of a job's folder. Raises: WrongSpec, where there is none; and as `find_receipt` does."""
    receipt = find_receipt(folder, any_format)
    if receipt is None:
        raise WrongSpec(f"{folder} holds no job: there is no {_FILE}. Name a folder that `convscope run` made.")
    return receipt


def find_receipt(folder: Place, any_format: bool = False) -> Receipt | None:
    """The receipt of a folder; None where there is none.

    Args:
        any_format: read the receipt of another version too, as far as its keys are those of this one.

    Raises: WrongSpec, for one that is damaged, is no receipt, or is of another format; StoreFailed, where the folder holds
        a pipe or a device.
    """
    check_ends(folder)
    path = folder / _FILE
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(tree, ensure_ascii=False).encode()  # fails for halves of characters, which no file takes
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise WrongSpec(f"{path} cannot be read ({error}). Remove it to run the job again.") from None
    if isinstance(tree, dict) and tree.get("format") != FORMAT and not any_format:
        raise WrongSpec(
            f"{folder} is of format {quoted(tree.get('format'))}, this version writes {FORMAT}. Choose another --out, "
            "or show and finish it with the version that wrote it."
        )
    try:
        return Receipt.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise WrongSpec(f"{path} is no receipt of a job ({reason}). Remove it to run the job again.") from None
