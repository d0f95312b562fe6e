"""Networks and images in memory: the same results as from files, and what notebooks show of them."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convscope
from pipeline import live
from pipeline.errors import ConvscopeError
from pipeline.sources.decode import Decoder
from pipeline.sources.fit import Fit
from pipeline.sources.folder import open_folder
from pipeline.spec import DataSpec


@pytest.fixture(scope="module")
def arrays(pictures: Any) -> list[np.ndarray]:
    """The 20 pictures as the folder's source gives them."""
    records = open_folder(str(pictures), DataSpec(source=f"folder:{pictures}"), False)
    return [Decoder().decode(record.data) for record in records.pick(range(20))]


@pytest.fixture(scope="module")
def results(tiny_model: Any, arrays: Any) -> Any:
    return convscope.scan(tiny_model, arrays, ["edges", "shapes", "classes"], preprocess="none", top_k=3)


def test_a_model_and_images_in_memory_give_what_files_give(results: Any, finished: Any) -> None:
    of_files = convscope.open(finished)
    same = ["layer", "channel", "rank", "score", "example", "row", "col", "src_y1", "src_x2"]
    assert results.activations[same].equals(of_files.activations[same])
    assert results.channels["mean"].equals(of_files.channels["mean"])


def test_a_folder_is_named_by_its_path_and_results_stay_where_they_are_asked_for(
    tiny_model: Any, pictures: Any, finished: Any, tmp_path: Path
) -> None:
    kept = convscope.scan(tiny_model, pictures, "edges", tmp_path, preprocess="none", top_k=1, limit=5)
    assert kept.folder == tmp_path / "tiny" and kept.receipt.examples == 5 and kept.layers == ["edges"]
    assert set(convscope.open(kept.folder).activations["label"]) <= {"cat", "dog"}


def test_datasets_of_batches_pairs_and_floats_are_images(arrays: Any) -> None:
    import tensorflow as tf

    from pipeline.sources.live import hold_images

    images = np.stack([Fit(16, 16).apply(image) for image in arrays])
    whole = tf.data.Dataset.from_tensor_slices((images, np.arange(20) % 2))
    expected = [record.data for record in hold_images(images, False).pick(range(20))]
    for dataset, labels in ((whole, "01" * 10), (whole.batch(7), "01" * 10), (whole.map(lambda image, label: image), None)):
        records = hold_images(dataset, False)
        assert [record.data for record in records.pick(range(20))] == expected
        assert "".join(records.image_labels) == (labels or "")
    one_hot = whole.map(lambda image, label: (tf.cast(image, tf.float32) / 255, tf.one_hot(label, 2))).batch(6)
    assert hold_images(one_hot, True).image_labels == hold_images(whole, False).image_labels
    assert hold_images(arrays, False).sizes(0, 2).tolist() == [list(image.shape[:2]) for image in arrays[:2]]


@pytest.mark.parametrize(
    ("images", "settings", "words"),
    [
        (np.zeros((2, 16, 16, 3), np.float32), {}, r"range=\[0, 1\]"),
        (np.zeros((0, 16, 16, 3), np.uint8), {}, "there are no images"),
        (np.zeros((2, 3), np.uint8), {}, r"shape \(3,\)"),
        (np.zeros((2, 16, 16, 3), np.uint8), {"topk": 3}, "nearest: top_k"),
        ("nowhere", {}, "does not exist"),
    ],
)
def test_what_cannot_be_looked_at_is_said(images: Any, settings: Any, words: str, tiny_model: Any) -> None:
    with pytest.raises(ConvscopeError, match=words):
        convscope.scan(tiny_model, images, preprocess="none", **settings)


def test_what_is_no_model_is_said() -> None:
    with pytest.raises(ConvscopeError, match="int is no Keras model"):
        convscope.scan(3, np.zeros((2, 16, 16, 3), np.uint8))


def test_a_channel_shows_its_patches(results: Any) -> None:
    channel = results.channel("shapes", 2)
    assert [patch.size for patch in channel.patches] == [
        (round(row.src_x2 - row.src_x1), round(row.src_y2 - row.src_y1)) for row in channel.winners.itertuples()
    ]
    page = channel._repr_html_()
    assert page.count("<img ") == 3 and "shapes / 2" in page and channel.patterns == []
    assert all(f"{score:.3g}" in page for score in channel.winners["score"])


def test_an_image_shows_what_it_wins(results: Any) -> None:
    image = results.image(int(results.activations["example"][0]))
    assert len(image.wins) == (results.activations["example"] == image.facts["example"]).sum() > 0
    assert image.facts["key"] in image._repr_html_() and results.image(image.facts["key"]).picture.size == image.picture.size


def test_results_list_their_layers_and_tables(results: Any) -> None:
    page = results._repr_html_()
    assert all(f"<td>{layer}</td>" in page for layer in results.layers) and {"activations", "fields"} <= set(dir(results))
    with pytest.raises(AttributeError, match="no 'activation'"):
        results.activation  # noqa: B018
    for name, which in (("channel", ("shape", 1)), ("channel", ("shapes", 9)), ("image", ("x",))):
        with pytest.raises(ConvscopeError):
            getattr(results, name)(*which)
    with pytest.raises(ConvscopeError, match="no index/attributions.parquet"):
        results.attributions  # noqa: B018


def test_temporary_results_go_with_what_reads_them(tiny_model: Any) -> None:
    results = convscope.scan(tiny_model, np.zeros((2, 16, 16, 3), np.uint8), "edges", preprocess="none")
    folder = results.folder
    assert folder.exists()
    del results
    assert not folder.exists()


def test_one_image_is_explained_in_one_line(tiny_model: Any, pictures: Any, arrays: Any) -> None:
    path = next(pictures.rglob("*.png"))
    of_file = convscope.explain(tiny_model, path, 1, preprocess="none")
    of_array = convscope.explain(tiny_model, Decoder().decode(path.read_bytes()), 1, preprocess="none")
    np.testing.assert_array_equal(of_file.map, of_array.map)
    assert of_file.map.shape == (6, 6) and of_file.target == "1" and "<img " in of_file._repr_html_()


def test_the_examples_in_the_docstrings_run() -> None:
    tried = doctest.testmod(live, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried.attempted >= 9 and tried.failed == 0
