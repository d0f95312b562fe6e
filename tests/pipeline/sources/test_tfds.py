"""TensorFlow Datasets: small ones prepared here, read back without network."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets")

from framing import framed

from pipeline.errors import MissingInput, UnknownName, UnusableData, WrongSpec
from pipeline.geometry import Box
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec

FIT = Fit(6, 6)
TRAIN, TEST = 23, 5


def thumbnail(index: Any) -> Any:
    return np.random.default_rng(index).integers(0, 256, (6, 6, 3), np.uint8)


class _Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, name-defined]
    """Builders here give what `_features` and `_example` say."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(builder=self, description="x", features=tfds.features.FeaturesDict(self._features()))

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"train": self._generate_examples(0, TRAIN), "test": self._generate_examples(100, TEST)}

    def _generate_examples(self, first: Any, count: Any) -> Iterator[Any]:
        for index in range(first, first + count):
            yield index, self._example(index)

    def _features(self) -> Any:
        return {"image": tfds.features.Image(shape=(6, 6, 3)), "label": tfds.features.ClassLabel(names=["ant", "bee"])}

    def _example(self, index: Any) -> Any:
        return {"image": thumbnail(index), "label": index % 2}


class Thumbs(_Small, skip_registration=True):  # type: ignore[call-arg]
    """Classes, in three files a split."""


class Named(_Small, skip_registration=True):  # type: ignore[call-arg]
    """Text for labels, images of any size, one of them broken."""

    def _features(self) -> Any:
        return {
            "picture": tfds.features.Image(shape=(None, None, 1)),
            "label": tfds.features.Text(),
            "note": tfds.features.Text(),
        }

    def _example(self, index: Any) -> Any:
        if index == 7:
            return {"picture": io.BytesIO(b"no image"), "label": "broken", "note": "x"}
        return {"picture": np.full((5 + index, 9, 1), index, np.uint8), "label": f"person {index}", "note": "x"}


class Plain(_Small, skip_registration=True):  # type: ignore[call-arg]
    """No label at all."""

    def _features(self) -> Any:
        return {"image": tfds.features.Image()}

    def _example(self, index: Any) -> Any:
        return {"image": thumbnail(index)}


class Secret(_Small, skip_registration=True):  # type: ignore[call-arg]
    """A class under another name, kept secret for some."""

    def _features(self) -> Any:
        return {"photo": tfds.features.Image(), "species": tfds.features.ClassLabel(names=["ant", "bee"])}

    def _example(self, index: Any) -> Any:
        return {"photo": thumbnail(index), "species": -1 if index % 2 else 1}


class Pairs(_Small, skip_registration=True):  # type: ignore[call-arg]
    """Two images: which?"""

    def _features(self) -> Any:
        return {"left": tfds.features.Image(), "right": tfds.features.Image()}

    def _example(self, index: Any) -> Any:
        return {"left": thumbnail(index), "right": thumbnail(index)}


class Boxed(_Small, skip_registration=True):  # type: ignore[call-arg]
    """Any number of boxes an image, and one number beside."""

    def _features(self) -> Any:
        objects = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=["ant", "bee"])}
        return {"image": tfds.features.Image(), "objects": tfds.features.Sequence(objects), "weight": np.float32}

    def _example(self, index: Any) -> Any:
        boxes = [{"bbox": tfds.features.BBox(0.0, 0.0, 1.0, (n + 1) / 8), "label": n % 2} for n in range(index % 3)]
        return {"image": thumbnail(index), "objects": boxes, "weight": index / 2}


class Clips(_Small, skip_registration=True):  # type: ignore[call-arg]
    """A video, not an image."""

    def _features(self) -> Any:
        return {"video": tfds.features.Video(shape=(None, 6, 6, 3))}

    def _example(self, index: Any) -> Any:
        return {"video": thumbnail(index)[None]}


class ConvscopeUnreachable(_Small):
    """Known to tfds by name, and not to be had."""

    def _split_generators(self, dl_manager: Any) -> None:
        raise ConnectionError("no route\nto host")


class ConvscopeToBeMade(_Small):
    """Known to tfds by name, and made on first use."""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A data_dir with the small data sets prepared, three files a split."""
    root = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(num_shards=3)
    for builder in (Thumbs, Named, Plain, Secret, Pairs, Boxed, Clips):
        builder(data_dir=root).download_and_prepare(download_config=config)
    return root


@pytest.fixture
def prepared(data_dir: Any) -> Any:
    def open_prepared(source: Any, fit: Any = FIT, **spec: Any) -> Any:
        return open_source(DataSpec(source=f"tfds:{source}", data_dir=str(data_dir), **spec), fit)

    return open_prepared


def by_tfds(data_dir: Any, name: Any, split: Any) -> Any:
    """The examples as tfds itself reads them: id, and the rest."""
    config = tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1)
    dataset = tfds.builder(name, data_dir=data_dir).as_dataset(split=split, read_config=config)
    return list(dataset.as_numpy_iterator())


def test_a_feature_of_numbers_is_read_record_by_record_in_any_order(prepared: Any, data_dir: Any) -> None:
    source = prepared("boxed/train[3:20]")
    expected = by_tfds(data_dir, "boxed", "train[3:20]")
    boxes, weights, labels = (source.column(name) for name in ("objects/bbox", "weight", "objects/label"))
    for example in (0, 1, 2, 16, 5, 6, 0):
        np.testing.assert_array_equal(boxes.value(example), expected[example]["objects"]["bbox"].reshape(-1, 4))
        assert weights.value(example) == expected[example]["weight"]
        np.testing.assert_array_equal(labels.value(example), expected[example]["objects"]["label"])
    assert boxes.is_box and not weights.is_box
    with pytest.raises(UnknownName, match="'objects/box' is not a feature of numbers of tfds:boxed.*nearest: objects/bbox"):
        source.column("objects/box")


@pytest.mark.parametrize("split", ["train", "test", "train[:10%]", "train[5:17]", "train[-4:]", "train[20:]+test", "all"])
def test_order_ids_labels_and_pixels_are_those_of_tfds_itself(data_dir: Any, prepared: Any, listed: Any, split: Any) -> None:
    expected = by_tfds(data_dir, "thumbs", split)
    source = prepared(f"thumbs/{split}")
    assert len(source) == len(expected) and source.labels == ["ant", "bee"]
    assert listed(source) == [
        (n, e["tfds_id"].decode(), source.labels[e["label"]], e["image"].tobytes(), "") for n, e in enumerate(expected)
    ]


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_shards_and_late_starts_give_the_same_elements(prepared: Any, listed: Any, count: Any) -> None:
    source = prepared("thumbs/train[3:22]", limit=17)
    whole = listed(source)
    assert len(whole) == len(source) == 17
    shards = [listed(source, Shard(index, count)) for index in range(count)]
    assert [e for shard in shards for e in shard] == whole
    for start in (1, 6, 100):
        assert listed(source, Shard(0, count), start) == shards[0][start:]


@pytest.mark.parametrize("examples", [[], [0], [22], [0, 22], [9, 3, 3, 10], [1, 4, 6], range(0, 23, 2), range(23)])
def test_fetch_gives_what_was_asked_for_from_any_file(data_dir: Any, prepared: Any, examples: Any) -> None:
    expected = by_tfds(data_dir, "thumbs", "train")
    fetched = list(prepared("thumbs/train").fetch(examples))
    assert [example for example, _ in fetched] == sorted(set(examples))
    for example, image in fetched:
        assert np.array_equal(image.pixels, expected[example]["image"])
        assert image.key == expected[example]["tfds_id"].decode() and image.region == Box(0, 0, 6, 6)
        assert image.label == ["ant", "bee"][expected[example]["label"]]


def test_fetching_a_slice_counts_within_the_slice(data_dir: Any, prepared: Any) -> None:
    expected = by_tfds(data_dir, "thumbs", "train[5:17]")
    for example, image in prepared("thumbs/train[5:17]").fetch([0, 11]):
        assert np.array_equal(image.pixels, expected[example]["image"])


def test_text_labels_grey_images_and_odd_sizes_are_read_and_a_bad_one_is_reported(prepared: Any, listed: Any) -> None:
    source = prepared("named/train", Fit(6, 6, "stretch"))
    elements = listed(source)
    assert source.labels is None and len(elements) == TRAIN
    for _, _, label, pixels, error in elements:
        if label == "broken":
            assert "not a whole image" in error and pixels == bytes(108)
        else:
            assert error == "" and pixels == bytes([int(label.removeprefix("person "))]) * 108
    bad = [e[2] for e in elements].index("broken")
    with pytest.raises(UnusableData, match="of tfds:named/train cannot be read"):
        list(source.fetch([bad]))


def test_no_label_is_an_empty_text(prepared: Any, listed: Any) -> None:
    source = prepared("plain/test")
    assert {e[2] for e in listed(source)} == {""} and source.labels is None
    assert next(source.fetch([0]))[1].label is None


def test_a_lone_class_is_the_label_whatever_its_name_and_a_secret_one_is_empty(prepared: Any, listed: Any) -> None:
    source = prepared("secret/train")
    assert source.labels == ["ant", "bee"]
    assert sorted(e[2] for e in listed(source)) == [""] * 11 + ["bee"] * 12


def test_windows_over_tfds_agree_with_the_images(prepared: Any, listed: Any) -> None:
    source = prepared("thumbs/train", Fit(3, 3), window={"size": 3, "stride": 3}, limit=50)
    images = [e[1] for e in listed(prepared("thumbs/train"))]
    elements = listed(source)
    assert [e[1] for e in elements] == [f"{key}@{y},{x}" for key in images for y in (0, 3) for x in (0, 3)][:50]
    for example, image in source.fetch([0, 7, 49]):
        box = image.region
        assert elements[example][3] == image.pixels[box.y1 : box.y2, box.x1 : box.x2].tobytes()
        assert elements[example][1] == image.key


def test_windows_count_a_bad_image_once(prepared: Any, listed: Any) -> None:
    elements = listed(prepared("named/train", window={"size": 5, "stride": 4}))
    assert [e[1].partition("@")[2] for e in elements if e[4]] == ["0,0"]


def test_the_version_can_be_named(prepared: Any) -> None:
    assert len(prepared("thumbs:1.2.0/test")) == TEST


def test_the_digest_tells_data_sets_splits_and_slices_apart(prepared: Any) -> None:
    sources = ["thumbs/train", "thumbs/test", "thumbs/train[:5]", "thumbs/train[1:6]", "plain/train"]
    assert len({prepared(source).digest() for source in sources}) == len(sources)
    records = prepared("thumbs/train").records
    assert replace(records, version="thumbs/1.3.0").digest(5) != records.digest(5)
    assert prepared("thumbs/train[:100%]").digest() == prepared("thumbs/train").digest()
    assert prepared("thumbs/train", limit=5).digest() != prepared("thumbs/train").digest()


def test_a_longer_slice_is_known_to_begin_with_a_shorter_one(prepared: Any) -> None:
    whole = prepared("thumbs/train")
    for count in (1, 5, 9, 20, TRAIN):
        assert whole.digest(count) == prepared(f"thumbs/train[:{count}]").digest()
    assert whole.digest(5) != prepared("thumbs/train[1:6]").digest() and whole.digest(5) != prepared("thumbs/test").digest()


@pytest.mark.parametrize("split", ["trian", "trian[:5]", "train+trian"])
def test_an_unknown_split_is_named_and_the_known_are_listed(prepared: Any, split: Any) -> None:
    with pytest.raises(UnknownName, match="'trian' is not a split of tfds:thumbs; nearest: train; known: test, train"):
        prepared(f"thumbs/{split}")


@pytest.mark.parametrize("source", ["thumbs", "thumbs/", "/train"])
def test_a_source_without_a_split_says_how_to_name_one(prepared: Any, source: Any) -> None:
    with pytest.raises(WrongSpec, match="names no split. Write tfds:NAME/SPLIT"):
        prepared(source)


@pytest.mark.parametrize("split", ["train[5]", "train[a:b]", "train[5:3%]x"])
def test_a_malformed_slice_is_refused_in_one_line(prepared: Any, split: Any) -> None:
    with pytest.raises(WrongSpec, match="is no slice of tfds:thumbs") as caught:
        prepared(f"thumbs/{split}")
    assert "\n" not in str(caught.value)


def test_an_empty_slice_is_refused(prepared: Any) -> None:
    with pytest.raises(UnusableData, match="holds no examples"):
        prepared("thumbs/train[:0]")


@pytest.mark.parametrize(("name", "near"), [("thubms", "thumbs"), ("cifar11", "cifar10")])
def test_an_unknown_data_set_is_named_with_those_near(prepared: Any, name: Any, near: Any) -> None:
    with pytest.raises(UnknownName, match=rf"'{name}' is not a data set .*nearest: .*{near}") as caught:
        prepared(f"{name}/train")
    assert "\n" not in str(caught.value)


def test_an_unknown_config_is_named_and_the_known_are_listed(prepared: Any) -> None:
    with pytest.raises(UnknownName, match="'horse2cebra' is not a config of cycle_gan; nearest: .*horse2zebra"):
        prepared("cycle_gan/horse2cebra/trainA")


def test_a_version_that_is_not_there_is_refused_in_one_line(prepared: Any) -> None:
    with pytest.raises(UnusableData, match="cifar10:0.0.9") as caught:
        prepared("cifar10:0.0.9/train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "features"), [("pairs", "left .*right"), ("clips", "video")])
def test_a_data_set_without_exactly_one_image_names_its_features(prepared: Any, name: Any, features: Any) -> None:
    with pytest.raises(UnusableData, match=f"not exactly one image.*{features}") as caught:
        prepared(f"{name}/train")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_prepared_says_so_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"failed: no route to host. Prepare it .*data_dir") as caught:
        open_source(DataSpec(source="tfds:convscope_unreachable/train", data_dir=str(tmp_path)), FIT)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_prepared_is_prepared(tmp_path: Path, listed: Any) -> None:
    tfds.disable_progress_bar()
    source = open_source(DataSpec(source="tfds:convscope_to_be_made/test", data_dir=str(tmp_path)), FIT)
    assert len(listed(source)) == TEST


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    Thumbs(data_dir=tmp_path).download_and_prepare()
    spec = DataSpec(source="tfds:thumbs/train", data_dir=str(tmp_path))
    source = open_source(spec, FIT)
    file = next((tmp_path / "thumbs" / "1.2.0").glob("*train.tfrecord*"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnusableData, match="longer than the file"):
        list(source.fetch([TRAIN - 1]))
    file.unlink()
    with pytest.raises(MissingInput, match="is missing"):
        open_source(spec, FIT)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda whole: framed(b"x", 2**40) + whole, "record 0 of .* is said to be longer than the file"),
        (lambda whole: framed(b"x", 2**62) + whole, "longer than the file"),
        (lambda whole: whole[:-1], "longer than the file"),
        (lambda whole: whole[:0], "holds 0 records, and its notes say more"),
        (lambda whole: framed(b"\xff" * 40) * 2, "tfds:plain/test.* cannot be read"),
        (lambda whole: framed(b"") * 2, "tfds:plain/test.* cannot be read: .*image"),
    ],
)
def test_records_whose_lengths_lie_or_that_are_none_are_one_error(
    data_dir: Any, tmp_path: Path, change: Callable[[bytes], bytes], said: str
) -> None:
    shutil.copytree(data_dir / "plain", tmp_path / "plain")
    file = sorted((tmp_path / "plain" / "1.2.0").glob("*test.tfrecord*"))[1]
    file.write_bytes(change(file.read_bytes()))
    source = open_source(DataSpec(source="tfds:plain/test[1:]", data_dir=str(tmp_path)), FIT)
    with pytest.raises(UnusableData, match=said) as caught:
        list(source.fetch(range(len(source))))
    assert "\n" not in str(caught.value) and str(caught.value).count("UnusableData") == 1
