"""`tfds:NAME/SPLIT`: TensorFlow Datasets, whose stored records are read directly; other features are not decoded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compiled.tfds_private import builder_on_disk, default_data_dir
from pipeline.errors import MissingInput, UnknownName, UnusableData, WrongSpec, damaged, one_line
from pipeline.hardware import cores
from pipeline.sources.record_batches import without_autotune
from pipeline.sources.records import Record, chunk_for, digest_of, numbered_key, size_or_zero
from pipeline.sources.tfds_columns import NumberFeature, RecordRange, TfdsColumn, number_features
from pipeline.sources.tfrecord import check_records
from pipeline.spec.data import DataSpec
from pipeline.store.remote import below, is_remote

if TYPE_CHECKING:
    import tensorflow as tf

_AT_ONCE = 256  # records parsed in one call


@dataclass(frozen=True)
class Prepared:
    """The records of a prepared split, in the order of its files."""

    name: str
    labels: list[str] | None
    chunk: int
    version: str
    slices: tuple[RecordRange, ...]
    image_feature: str
    label_feature: str | None
    label_is_text: bool
    number_features: Mapping[str, NumberFeature] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(span.take for span in self.slices)

    def digest(self, count: int) -> str:
        slices = _between(self.slices, 0, count)
        return digest_of(self.version, [(os.path.basename(span.path), span.skip, span.take) for span in slices])

    def column(self, name: str) -> TfdsColumn:
        """A feature of numbers. Raises: UnknownName."""
        return TfdsColumn.of(self.name, self.slices, self.number_features, name)

    def read(self, first: int, last: int) -> tf.data.Dataset:
        return self._parsed(_between(self.slices, first, last)).unbatch()

    def pick(self, examples: Sequence[int]) -> Iterator[Record]:
        # Each file is read once, from its first chosen example to its last; only the chosen ones are parsed.
        slices = []
        for span in self.slices:
            begin, end = np.searchsorted(examples, [span.first, span.first + span.take])
            if begin < end:
                slices += _between((span,), examples[begin], examples[end - 1] + 1)
        yield from self._iterate(self._parsed(slices, chosen=examples).unbatch())

    def find(self, key: str) -> int | None:
        file, ordinal = numbered_key(key)
        for span in self.slices:
            if os.path.basename(span.path) == file and span.skip <= ordinal < span.skip + span.take:
                return span.first + ordinal - span.skip
        return None

    def sizes(self, first: int, last: int) -> np.ndarray:
        sizes = [size_or_zero(record.data) for record in self._iterate(self.read(first, last))]
        return np.array(sizes, np.int64).reshape(-1, 2)

    def _iterate(self, records: tf.data.Dataset) -> Iterator[Record]:
        import tensorflow as tf

        try:
            for record in without_autotune(records).as_numpy_iterator():
                key, label, error = (record[name].decode() for name in ("key", "label", "error"))
                yield Record(int(record["example"]), key, label, record["data"], error)
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise damaged(error, self.name) from None

    def _parsed(self, slices: Sequence[RecordRange], chosen: Sequence[int] | None = None) -> tf.data.Dataset:
        """Batches of the slices' records, or only of the chosen examples among them."""
        import tensorflow as tf

        features = {self.image_feature: tf.io.FixedLenFeature((), tf.string)}
        if self.label_feature is not None:
            features[self.label_feature] = tf.io.FixedLenFeature((), tf.string if self.label_is_text else tf.int64)
        chosen_examples = None if chosen is None else tf.constant(chosen, tf.int64)

        def of_slice(path: tf.Tensor, name: tf.Tensor, skip: tf.Tensor, take: tf.Tensor, first: tf.Tensor) -> tf.data.Dataset:
            path = tf.ensure_shape(tf.numpy_function(_checked, (path, skip + take), tf.string), ())
            stored = tf.data.TFRecordDataset(path, buffer_size=2**20).skip(skip).take(take)
            numbered = tf.data.Dataset.zip((tf.data.Dataset.range(take), stored)).batch(min(_AT_ONCE, 8 * self.chunk))
            return numbered.map(lambda number, record: (first + number, _keys(name, skip + number), record))

        def parse(example: tf.Tensor, key: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
            if chosen_examples is not None:
                rank = tf.minimum(tf.searchsorted(chosen_examples, example), tf.size(chosen_examples) - 1)
                is_chosen = tf.gather(chosen_examples, rank) == example
                example, key, record = (tf.boolean_mask(values, is_chosen) for values in (example, key, record))
            parsed = tf.io.parse_example(record, features)
            nothing = tf.fill(tf.shape(example), "")
            label = nothing if self.label_feature is None else self._label_text(parsed[self.label_feature])
            return {"example": example, "key": key, "label": label, "data": parsed[self.image_feature], "error": nothing}

        columns = (
            tf.constant([span.path for span in slices], tf.string),
            # As tfds itself names an example (`tfds_id`): its file and its ordinal there, however the split is sliced.
            tf.constant([os.path.basename(span.path) for span in slices], tf.string),
            *(tf.constant([span[column] for span in slices], tf.int64) for column in (1, 2, 3)),
        )
        batches = tf.data.Dataset.from_tensor_slices(columns).flat_map(of_slice)
        return batches.map(parse, num_parallel_calls=cores(), deterministic=True)

    def _label_text(self, values: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        if self.label_is_text:
            return values
        if self.labels is None:
            return tf.strings.as_string(values)
        # Test splits often give -1 for a label that is withheld.
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
    slices = _slices(info.splits, split, name, os.fspath(info.data_dir))
    if not slices:
        raise UnusableData(f"tfds:{path} holds no examples. Name another split or a longer slice.")
    image, label = _image_feature(info.features, name), _label_feature(info.features)
    kind = info.features[label] if label is not None else None
    return Prepared(
        name=f"tfds:{path}",
        labels=list(kind.names) if isinstance(kind, tfds.features.ClassLabel) else None,
        chunk=chunk_for(info.dataset_size / info.splits.total_num_examples),
        version=info.full_name,
        slices=slices,
        image_feature=image,
        label_feature=label,
        label_is_text=isinstance(kind, tfds.features.Text),
        number_features=number_features(dict(info.features.items())),
    )


def _checked(path: bytes, needed: int) -> bytes:
    check_records(path.decode(), int(needed))
    return path


def _keys(name: tf.Tensor, ordinals: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    return tf.strings.join([name, "__", tf.strings.as_string(ordinals)])


def _between(slices: Sequence[RecordRange], first: int, last: int) -> list[RecordRange]:
    """The slices of examples first to last, half-open."""
    cut = []
    for span in slices:
        begin, end = max(first, span.first), min(last, span.first + span.take)
        if begin < end:
            cut.append(RecordRange(span.path, span.skip + int(begin) - span.first, int(end - begin), int(begin)))
    return cut


def _prepared(name: str, data_dir: str | None, fetch: bool) -> Any:
    """The builder of a data set that is prepared on disk, or has just been."""
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
        raise UnusableData(f"tfds:{name} cannot be opened: {one_line(error)}. Prepare it again.") from None
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
        raise UnusableData(f"tfds:{name} cannot be opened: {one_line(error)}. See its page in the tfds catalog.") from None
    mistyped = data_dir is not None and not is_remote(data_dir) and not os.path.isdir(data_dir)
    if not fetch or mistyped:  # a mistyped folder is not to be filled
        raise MissingInput(
            f"tfds:{name} is not prepared in {where}. Prepare it (tfds build {name}), or set data.data_dir to where it is."
        )
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise MissingInput(
            f"tfds:{name} is not prepared in {where}, and preparing it failed: {one_line(error)}. "
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


def _slices(splits: Any, split: str, name: str, folder: str) -> tuple[RecordRange, ...]:
    import tensorflow as tf

    for summand in split.split("+"):
        bare = summand.partition("[")[0].strip()
        if bare not in splits and bare != "all":
            raise UnknownName.among(bare, splits, where=f"a split of tfds:{name}")
    try:
        files = splits[split].file_instructions
    except (ValueError, NotImplementedError, AssertionError) as error:
        raise WrongSpec(
            f"{split!r} is no slice of tfds:{name}: {one_line(error)}. Write train[:10%] or train[100:200]."
        ) from None
    slices, first = [], 0
    for file in files:
        if not os.fspath(file.filename).partition(".tfrecord")[1]:
            raise UnusableData(f"tfds:{name} is stored as {file.basename()}. Prepare it with file_format='tfrecord'.")
        path = os.fspath(file.filename)
        try:  # the names of the files stand in dataset_info.json, which may come from a stranger
            below(folder, path.removeprefix(f"{folder.rstrip('/')}/"))
        except PermissionError as error:
            raise UnusableData(f"tfds:{name} names the file {path!r}; {error.strerror}. Prepare the data set again.") from None
        if not tf.io.gfile.exists(file.filename):
            raise MissingInput(f"{file.filename} of tfds:{name} is missing. Prepare the data set again.")
        slices.append(RecordRange(os.fspath(file.filename), file.skip, file.take, first))
        first += file.take
    return tuple(span for span in slices if span.take)


def _image_feature(features: Any, name: str) -> str:
    import tensorflow_datasets as tfds

    plain = [key for key, feature in features.items() if type(feature) is tfds.features.Image]
    if len(plain) != 1 or features[plain[0]].np_dtype not in (np.uint8, np.uint16):
        listed = ", ".join(f"{key} ({repr(feature)[:200]})" for key, feature in sorted(features.items()))
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
