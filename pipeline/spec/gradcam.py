"""`[gradcam]`: what made the network decide: for which images and classes, by which methods, and whether to check them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, field_validator, model_validator

from pipeline.attribution.methods import METHODS, Baseline, Side, method_named
from pipeline.spec.paths import HoldsPath, PathText
from pipeline.spec.picks import Picks, Texts
from pipeline.spec.table import AlsoNamed, Batch, Positive, Rewritten, Table, a_list

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]


def around_a_method(name: str) -> str:
    """The name of noise around a method, such as "smoothgrad-gradcam". Raises: ValueError."""
    try:
        return method_named(name).name
    except KeyError:
        raise ValueError("is no method, nor smoothgrad, squaregrad or vargrad with a hyphen and a method") from None


AroundName = Annotated[str, Field(pattern="^(smooth|square|var)grad-"), AfterValidator(around_a_method)]
Check = Literal["randomisation", "independent", "curves", "metrics"]
AggregateName = Literal["channels", "places", "clusters"]


def a_list_of_targets(value: Any) -> Any:
    """One number or text stands for a list of one."""
    return [value] if isinstance(value, (int, str, dict)) and not isinstance(value, bool) else value


BoxFormat = Literal["yxyx", "xyxy", "xywh", "cxcywh"]
Edge = Annotated[float, Field(ge=0, le=1)]

Number = Annotated[int, Field(ge=0, le=2**53, strict=True)]  # of a class, an output or an example


class TargetSpec(Table):
    """`gradcam.targets`: one of them, where a number or name does not say it all.

    output: a class or output by number or name, "predicted" or "label"; for heads that have any.
    sign: -1 for what lowers the output of a regression.
    minus: another class or output by number or name, whose evidence is taken off: why the one and not the other.
    region: of a map of classes: "image", "predicted", a box as shares of the image [y1, x1, y2, x2], or a picture that is
        white within.
    box: of a detector: where the detection is, as shares of the network's input [y1, x1, y2, x2].
    image, example: of an embedding: the image to be like, a file or one of the data set.
    direction: of an embedding: one number for each of its own.
    """

    output: Annotated[Number | Annotated[str, Field(min_length=1)], AlsoNamed("class")] = "predicted"
    sign: Literal[1, -1] = 1
    minus: Number | Annotated[str, Field(min_length=1)] | None = None
    region: Annotated[str, HoldsPath(words=("image", "predicted"))] | tuple[Edge, Edge, Edge, Edge] | None = None
    box: tuple[Edge, Edge, Edge, Edge] | None = None
    image: PathText | None = None
    example: Number | None = None
    direction: list[Annotated[float, Field(allow_inf_nan=False)]] | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> TargetSpec:
        if sum(key is not None for key in (self.image, self.example, self.direction)) > 1:
            raise ValueError("image, example and direction are three ways to say one thing: choose one of them")
        if self.minus is not None and self.sign < 0:
            raise ValueError("has a sign by itself where minus is given: to turn it, swap output and minus")
        if self.direction is not None and not any(self.direction):
            raise ValueError("a direction is of zeros alone")
        return self

    @field_validator("box")
    @classmethod
    def _with_an_area(cls, value: tuple[float, float, float, float] | None) -> tuple[float, float, float, float] | None:
        if value is not None and not (value[0] < value[2] and value[1] < value[3]):
            raise ValueError("needs y1 < y2 and x1 < x2")
        return value

    @property
    def words(self) -> str:
        """The vector of an embedding, for people."""
        if self.direction is not None:
            return "a direction"
        return f"like example {self.example}" if self.image is None else f"like {self.image.rpartition('/')[2]}"


AskedTargets = Annotated[
    list[Number | Annotated[str, Field(min_length=1)] | TargetSpec], Rewritten(a_list_of_targets), AlsoNamed("classes")
]


class ThroughSpec(Table):
    """`gradcam.through`: one channel of a layer, through which relevance is followed."""

    layer: Annotated[str, Field(min_length=1)]
    channel: Number


class ObjectsSpec(Table):
    """`[gradcam.objects]`: where the objects of the images are, for metrics that ask whether a map lies on them.

    source: a table of boxes or of masks, or a folder of masks. column: of the data set itself, which holds boxes.
    format, unit: of the boxes of a column; TensorFlow Datasets say theirs themselves.
    """

    source: PathText | None = None
    column: Annotated[str, Field(min_length=1)] | None = None
    format: BoxFormat | None = None
    unit: Literal["pixels", "share"] | None = None

    @model_validator(mode="after")
    def _source_or_column(self) -> ObjectsSpec:
        if (self.source is None) == (self.column is None):
            raise ValueError("takes exactly one of source and column")
        if (self.format is None) != (self.unit is None):
            raise ValueError("takes format and unit together")
        if self.format is not None and self.column is None:
            raise ValueError("takes format only with column: a table of boxes has the columns y1, x1, y2 and x2, in pixels")
        return self


class GradcamSpec(Picks):
    """`[gradcam]`: maps of the evidence for a class, for the images picked.

    layers: empty for the last convolutional one.
    targets: "predicted", "label", numbers, names, or tables.
    sanity: checks of the maps. objects: where the objects are, which the check "metrics" then compares them with.
    steps, baseline, samples, noise, patch, segments, channels: see `MethodSettings`.
    references: how many images of the data set expected gradients start from.
    through: channels, for each of which methods of relevance make one more map, of what goes through it.
    evidence: which side of class activation maps is kept. merge: whether to merge the maps of several layers too.
    arrays: whether to store the maps as numbers too.
    aggregate: what the maps of all images say together, class by class.
    pictures: of how many images, spread evenly over those picked, pictures are drawn.
    """

    methods: Annotated[list[MethodName | AroundName], Rewritten(a_list), Field(min_length=1)] = [
        "gradcam",
        "guided_backprop",
        "guided_gradcam",
    ]
    layers: Texts = []
    targets: Annotated[AskedTargets, Field(min_length=1)] = ["predicted"]
    sanity: Annotated[list[Check], Rewritten(a_list), AlsoNamed("trust")] = []
    objects: ObjectsSpec | None = None
    steps: Annotated[int, Field(ge=2, le=2**31, strict=True)] = 256
    baseline: Baseline = "black"
    samples: Annotated[int, Field(ge=2, le=2**24, strict=True)] | None = None
    references: Positive = 16
    noise: Annotated[float, Field(gt=0, le=10)] = 0.15
    patch: Annotated[float, Field(gt=0, le=1)] = 0.125
    segments: Annotated[int, Field(ge=2, le=2**16, strict=True)] = 50
    channels: Positive | None = None
    through: list[ThroughSpec] = []
    evidence: Side = "for"
    merge: StrictBool = False
    arrays: StrictBool = False
    aggregate: Annotated[list[AggregateName], Rewritten(a_list)] = []
    pictures: Literal["all"] | Annotated[int, Field(ge=0, le=2**53, strict=True)] = 200
    batch: Batch = 16

    @model_validator(mode="after")
    def _through_by_relevance(self) -> GradcamSpec:
        if self.through and not any(name.startswith("lrp_") for name in self.methods):
            raise ValueError("through needs a method of relevance among gradcam.methods, such as lrp_epsilon_plus_flat")
        return self

    @model_validator(mode="after")
    def _objects_for_metrics(self) -> GradcamSpec:
        if self.objects is not None and "metrics" not in self.sanity:
            raise ValueError('objects needs "metrics" among gradcam.sanity')
        return self

    @field_validator("methods", "targets", "sanity", "through", "aggregate")
    @classmethod
    def _once_each(cls, value: list[Any]) -> list[Any]:
        return [item for number, item in enumerate(value) if item not in value[:number]]
