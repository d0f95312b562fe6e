"""JobSpec: all tables of a spec together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator

from pipeline.errors import UnknownName, WrongSpec, quoted, shortened
from pipeline.spec.activations import ActivationsSpec
from pipeline.spec.atlas import AtlasSpec
from pipeline.spec.circuits import CircuitsSpec
from pipeline.spec.concepts import ConceptsSpec
from pipeline.spec.data import DataSpec
from pipeline.spec.directions import DirectionsSpec
from pipeline.spec.dream import DreamSpec
from pipeline.spec.featuremaps import FeaturemapsSpec
from pipeline.spec.filters import FiltersSpec
from pipeline.spec.gradcam import GradcamSpec
from pipeline.spec.model import ModelSpec
from pipeline.spec.patterns import PatternsSpec
from pipeline.spec.table import Rewritten, Table, a_list, inner_tables, with_field_names

# The one list of the names of stages, in the order in which they run; pipeline/stages/ has a file for each.
StageName = Literal[
    "activations",
    "filters",
    "featuremaps",
    "gradcam",
    "patterns",
    "dream",
    "concepts",
    "directions",
    "atlas",
    "circuits",
    "report",
]
STAGES: tuple[StageName, ...] = get_args(StageName)


class JobSpec(Table):
    """A whole job, as its TOML file says it."""

    name: str
    stages: Annotated[list[StageName], Rewritten(a_list), Field(min_length=1)] = ["activations", "report"]
    model: ModelSpec
    data: DataSpec
    activations: ActivationsSpec = ActivationsSpec()
    filters: FiltersSpec = FiltersSpec()
    featuremaps: FeaturemapsSpec = FeaturemapsSpec()
    gradcam: GradcamSpec = GradcamSpec()
    patterns: PatternsSpec = PatternsSpec()
    dream: DreamSpec = DreamSpec()
    concepts: ConceptsSpec = ConceptsSpec()
    directions: DirectionsSpec = DirectionsSpec()
    atlas: AtlasSpec = AtlasSpec()
    circuits: CircuitsSpec = CircuitsSpec()

    def embedding_network(self) -> ModelSpec | None:
        """The second network of the job, which embeds images for the stage concepts; None where there is none."""
        embeddings = self.concepts.embeddings
        return embeddings.network() if embeddings is not None and "concepts" in self.stages else None

    @field_validator("name")
    @classmethod
    def _a_folder_name(cls, value: str) -> str:
        if not is_job_name(value):
            raise ValueError("is the name of a folder: at most 255 letters, digits, '.', '_' and '-', a letter or digit first")
        return value

    @field_validator("stages", mode="before")
    @classmethod
    def _known_stages(cls, value: Any) -> Any:
        for stage in value if isinstance(value, list) else [value]:
            if isinstance(stage, str) and stage not in STAGES:
                raise UnknownName.among(stage, STAGES, where="a stage")
        return value

    @field_validator("stages")
    @classmethod
    def _each_once(cls, value: list[StageName]) -> list[StageName]:
        return list(dict.fromkeys(value))


def is_job_name(name: str) -> bool:
    """Whether a job may be called so: its folder is, and no file system takes a name of more than 255 bytes."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", name) is not None


def validate(tree: dict[str, Any], where: str) -> JobSpec:
    """A tree of tables as a spec. Raises: WrongSpec, UnknownName, in which `where` is what the tree is called."""
    try:
        return JobSpec.model_validate(with_field_names(tree, JobSpec, where))
    except ValidationError as error:
        raise _explain(error, where) from None


def _explain(error: ValidationError, where: str) -> WrongSpec:
    """The first of pydantic's errors, as a WrongSpec of one line."""
    first = error.errors()[0]
    if first["type"] == "value_error" and isinstance(first["ctx"]["error"], WrongSpec):
        return first["ctx"]["error"]
    key = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function-", "literal[", "constrained")))
    if first["type"] == "extra_forbidden":
        table = _table_at(first["loc"][:-1])
        inside = ".".join(str(part) for part in first["loc"][:-1])
        name = str(first["loc"][-1])
        elsewhere = [path for path in keys() if path.rpartition(".")[2] == name]
        where_from = f"a key of {f'[{inside}]' if inside else 'the spec'} in {where}"
        if elsewhere:
            return UnknownName(f"{quoted(name)} is not {where_from}. Did you mean {', '.join(elsewhere[:3])}?")
        return UnknownName.among(name, table.model_fields, where=where_from, hint="What a key means: convscope help KEY.")
    if first["type"] == "missing" and isinstance(first["loc"][-1], str):
        return WrongSpec(f"{where} has no {key!r}. Add it; what it means: convscope help {key}.")
    message = f"{shortened(key)} = {quoted(first['input'])} in {where}: {first['msg'].removeprefix('Value error, ')}."
    known = next((path for path in keys() if path == key or key.startswith(f"{path}.")), None)
    return WrongSpec(f"{message} What it means: convscope help {known}." if known else message)


def keys(table: type[BaseModel] = JobSpec, path: str = "") -> Iterator[str]:
    """Every key of a spec, such as "activations.crop", those of inner tables after the key of their table's."""
    for name, field in table.model_fields.items():
        inner = list(inner_tables(field.annotation))
        for deeper in inner:
            yield from keys(deeper, f"{path}{name}.")
        yield f"{path}{name}"


def _table_at(location: Sequence[int | str]) -> type[BaseModel]:
    """The table of the spec that an error of pydantic is about."""
    table: type[BaseModel] = JobSpec
    for part in location:
        if isinstance(part, int):  # an index into a list of tables
            continue
        field = table.model_fields[part]
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        table = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return table
