"""`tfds:NAME/SPLIT`: TensorFlow Datasets, read as it stores them, without decoding what is not shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.compiled.tfds_private import builder_on_disk, default_data_dir
from pipeline.errors import MissingInput, UnknownName, UnusableData, WrongSpec
from pipeline.hardware import cores
from pipeline.sources.records import Record, chunk_for, digest_of, numbered_key, size_or_zero
from pipeline.sources.without_autotune import untuned
from pipeline.spec.data import DataSpec
from pipeline.store.remote import is_remote

if TYPE_CHECKING:
    import tensorflow as tf

_AT_ONCE = 256  # records parsed in one call


class RecordRange(NamedTuple):
    """Consecutive records of one file: `take` of them after `skip`; the first is example `first`."""

    path: str
    skip: int
    take: int
    first: int


@dataclass(frozen=True)
class Prepared:
    """The records of a prepared split, in the order of its files."""

    name: str
    labels: list[str] | None
    chunk: int
    version: str
    parts: tuple[RecordRange, ...]
    image_feature: str
    label_feature: str | None
    label_is_text: bool

    def __len__(self) -> int:
        return sum(part.take for part in self.parts)

    def digest(self, count: int) -> str:
        parts = _between(self.parts, 0, count)
        return digest_of(self.version, [(os.path.basename(part.path), part.skip, part.take) for part in parts])

    def read(self, first: int, last: int) -> tf.data.Dataset:
        return self._parsed(_between(self.parts, first, last)).unbatch()

    def pick(self, examples: Sequence[int]) -> Iterator[Record]:
        # Each file is passed over once, from its first example wanted to its last; nothing but the wanted is parsed.
        parts = []
        for part in self.parts:
            begin, end = np.searchsorted(examples, [part.first, part.first + part.take])
            if begin < end:
                parts += _between((part,), examples[begin], examples[end - 1] + 1)
        yield from self._iterate(self._parsed(parts, wanted=examples).unbatch())

    def find(self, key: str) -> int | None:
        file, place = numbered_key(key)
        for part in self.parts:
            if os.path.basename(part.path) == file and part.skip <= place < part.skip + part.take:
                return part.first + place - part.skip
        return None

    def sizes(self, first: int, last: int) -> np.ndarray:
        found = [size_or_zero(record.data) for record in self._iterate(self.read(first, last))]
        return np.array(found, np.int64).reshape(-1, 2)

    def _iterate(self, records: tf.data.Dataset) -> Iterator[Record]:
        import tensorflow as tf

        try:
            for record in untuned(records).as_numpy_iterator():
                key, label, error = (record[name].decode() for name in ("key", "label", "error"))
                yield Record(int(record["example"]), key, label, record["data"], error)
        except tf.errors.OpError as error:
            raise UnusableData(f"{self.name} is damaged: {_one_line(error)}. Delete it and prepare it anew.") from None

    def _parsed(self, parts: Sequence[RecordRange], wanted: Sequence[int] | None = None) -> tf.data.Dataset:
        """Batches of records of the parts, or of those among them that are wanted."""
        import tensorflow as tf

        features = {self.image_feature: tf.io.FixedLenFeature((), tf.string)}
        if self.label_feature is not None:
            features[self.label_feature] = tf.io.FixedLenFeature((), tf.string if self.label_is_text else tf.int64)
        wanted_examples = None if wanted is None else tf.constant(wanted, tf.int64)

        def of_part(path: tf.Tensor, name: tf.Tensor, skip: tf.Tensor, take: tf.Tensor, first: tf.Tensor) -> tf.data.Dataset:
            stored = tf.data.TFRecordDataset(path, buffer_size=2**20).skip(skip).take(take)
            numbered = tf.data.Dataset.zip((tf.data.Dataset.range(take), stored)).batch(min(_AT_ONCE, 8 * self.chunk))
            return numbered.map(lambda place, record: (first + place, _keys(name, skip + place), record))

        def parse(example: tf.Tensor, key: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
            if wanted_examples is not None:
                at = tf.minimum(tf.searchsorted(wanted_examples, example), tf.size(wanted_examples) - 1)
                here = tf.gather(wanted_examples, at) == example
                example, key, record = (tf.boolean_mask(values, here) for values in (example, key, record))
            parsed = tf.io.parse_example(record, features)
            nothing = tf.fill(tf.shape(example), "")
            label = nothing if self.label_feature is None else self._label_text(parsed[self.label_feature])
            return {"example": example, "key": key, "label": label, "data": parsed[self.image_feature], "error": nothing}

        columns = (
            tf.constant([part.path for part in parts], tf.string),
            # What tfds itself calls an example (`tfds_id`): the file and the ordinal in it, however the split is sliced.
            tf.constant([os.path.basename(part.path) for part in parts], tf.string),
            *(tf.constant([part[column] for part in parts], tf.int64) for column in (1, 2, 3)),
        )
        batches = tf.data.Dataset.from_tensor_slices(columns).flat_map(of_part)
        return batches.map(parse, num_parallel_calls=cores(), deterministic=True)

    def _label_text(self, values: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        if self.label_is_text:
            return values
        if self.labels is None:
            return tf.strings.as_string(values)
        # Test splits often give -1 for a label that is kept secret.
        known = (values >= 0) & (values < len(self.labels))
        return tf.where(known, tf.gather(self.labels, tf.where(known, values, 0)), "")


def open_tfds(path: str, spec: DataSpec, fetch: bool) -> Prepared:
    """A split of a data set: `NAME[/CONFIG][:VERSION]/SPLIT`, where SPLIT may be sliced or a sum, as tfds has it.

    What is prepared in `data_dir` (by default, tfds' own) is read without network; anything else is first
    downloaded and prepared there.

    Raises: UnknownName, WrongSpec, MissingInput, UnusableData.
    """
    import tensorflow_datasets as tfds

    name, slash, split = path.rpartition("/")
    if not slash or not name or not split:
        raise WrongSpec(f"data.source 'tfds:{path}' names no split. Write tfds:NAME/SPLIT, as in tfds:cifar10/test.")
    data_dir = None if spec.data_dir is None else os.path.expanduser(spec.data_dir)
    info = _prepared(name, data_dir, fetch).info
    parts = _parts(info.splits, split, name)
    if not parts:
        raise UnusableData(f"tfds:{path} holds no examples. Name another split or a longer slice.")
    image, label = _image_feature(info.features, name), _label_feature(info.features)
    kind = info.features[label] if label is not None else None
    return Prepared(
        name=f"tfds:{path}",
        labels=list(kind.names) if isinstance(kind, tfds.features.ClassLabel) else None,
        chunk=chunk_for(info.dataset_size / info.splits.total_num_examples),
        version=info.full_name,
        parts=parts,
        image_feature=image,
        label_feature=label,
        label_is_text=isinstance(kind, tfds.features.Text),
    )


def _keys(name: tf.Tensor, ordinals: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    return tf.strings.join([name, "__", tf.strings.as_string(ordinals)])


def _between(parts: Sequence[RecordRange], first: int, last: int) -> list[RecordRange]:
    """The parts of examples first to last, half-open."""
    cut = []
    for part in parts:
        begin, end = max(first, part.first), min(last, part.first + part.take)
        if begin < end:
            cut.append(RecordRange(part.path, part.skip + int(begin) - part.first, int(end - begin), int(begin)))
    return cut


def _prepared(name: str, data_dir: str | None, fetch: bool) -> Any:
    """The builder of a data set that is on disk, or has been brought there."""
    import tensorflow_datasets as tfds

    try:
        return builder_on_disk(name, data_dir)
    except tfds.core.DatasetNotFoundError:
        pass
    except Exception as error:
        if data_dir is not None and "File system scheme" in str(error):
            raise UnusableData(
                f"data.data_dir {data_dir!r}: TensorFlow reads folders and gs:// addresses, and no others. Copy the data set "
                "to one of these, or name its images by parquet:, tar: or folder:, which take any address."
            ) from None
        raise UnusableData(f"tfds:{name} cannot be opened: {_one_line(error)}. Prepare it anew.") from None
    where = data_dir or default_data_dir()
    bare = re.split("[/:]", name)[0]
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        known = {*tfds.list_builders(with_community_datasets=False), *_folders(where)}
        raise UnknownName.among(
            bare, known, where=f"a data set that tfds knows or {where} holds", hint="For one of your own, set data.data_dir."
        ) from None
    except Exception as error:
        configs = _configs(bare)
        config = name.split(":")[0].partition("/")[2]
        if config and config not in configs:
            raise UnknownName.among(config, configs, where=f"a config of {bare}") from None
        raise UnusableData(f"tfds:{name} cannot be opened: {_one_line(error)}. See its page in the tfds catalog.") from None
    mistyped = data_dir is not None and not is_remote(data_dir) and not os.path.isdir(data_dir)
    if not fetch or mistyped:  # which is not to be filled
        raise MissingInput(
            f"tfds:{name} is not prepared in {where}. Prepare it (tfds build {name}), or set data.data_dir to where it is."
        )
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise MissingInput(
            f"tfds:{name} is not prepared in {where}, and preparing it failed: {_one_line(error)}. "
            f"Prepare it (tfds build {name}), or set data.data_dir to where it is."
        ) from None
    return builder


def _configs(name: str) -> list[str]:
    import tensorflow_datasets as tfds

    return list(tfds.builder_cls(name).builder_configs)


def _folders(path: str) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(path) if entry.is_dir() and entry.name not in ("downloads", "extracted")]
    except OSError:
        return []


def _parts(splits: Any, split: str, name: str) -> tuple[RecordRange, ...]:
    import tensorflow as tf

    for one in split.split("+"):
        bare = one.partition("[")[0].strip()
        if bare not in splits and bare != "all":
            raise UnknownName.among(bare, splits, where=f"a split of tfds:{name}")
    try:
        files = splits[split].file_instructions
    except (ValueError, NotImplementedError, AssertionError) as error:
        raise WrongSpec(
            f"{split!r} is no slice of tfds:{name}: {_one_line(error)}. Write train[:10%] or train[100:200]."
        ) from None
    parts, first = [], 0
    for file in files:
        if not os.fspath(file.filename).partition(".tfrecord")[1]:
            raise UnusableData(f"tfds:{name} is stored as {file.basename()}. Prepare it with file_format='tfrecord'.")
        if not tf.io.gfile.exists(file.filename):
            raise MissingInput(f"{file.filename} of tfds:{name} is missing. Prepare the data set anew.")
        parts.append(RecordRange(os.fspath(file.filename), file.skip, file.take, first))
        first += file.take
    return tuple(part for part in parts if part.take)


def _image_feature(features: Any, name: str) -> str:
    import tensorflow_datasets as tfds

    plain = [key for key, feature in features.items() if type(feature) is tfds.features.Image]
    if len(plain) != 1 or features[plain[0]].np_dtype not in (np.uint8, np.uint16):
        listed = ", ".join(f"{key} ({_one_line(repr(feature))})" for key, feature in sorted(features.items()))
        raise UnusableData(
            f"tfds:{name} has not exactly one image of whole numbers in each example; its features: {listed}. Name another."
        )
    return plain[0]


def _label_feature(features: Any) -> str | None:
    """`label`, where it is a class, a text or a whole number; else the only class."""
    import tensorflow_datasets as tfds

    label = dict(features.items()).get("label")
    if isinstance(label, (tfds.features.ClassLabel, tfds.features.Text)):
        return "label"
    classes = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    if len(classes) == 1:
        return classes[0]
    return "label" if label is not None and label.shape == () and label.np_dtype == np.int64 else None


def _one_line(error: object) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= 200 else f"{text[:197]}..."
