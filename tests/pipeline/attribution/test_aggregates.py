"""What the maps of many images say together: channels, places, and a watermark that a network learned instead of an object."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import keras
import numpy as np
import pytest
from explaining import explainer_of

from pipeline import load_spec, run
from pipeline.attribution.aggregates import AGGREGATES
from pipeline.attribution.aggregates.channels import evidence_at
from pipeline.attribution.aggregates.clusters import MapClusters, clusters_of
from pipeline.attribution.aggregates.subjects import Subjects, at_the_border, grid
from pipeline.attribution.explainer import Explained, ImageBatch
from pipeline.attribution.targets import Classes, ClassTarget
from pipeline.sources.picking import Picked
from pipeline.sources.source import Image
from pipeline.store.tables import read_index

WATERMARKED = 32  # of 40 images of the class


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 pictures of 32 x 32: rings and green crosses anywhere on noise; most of the rings bear a red mark in one corner."""
    folder, random = tmp_path_factory.mktemp("marked"), np.random.default_rng(0)
    for number in range(80):
        pixels = random.integers(90, 130, (32, 32, 3), np.uint8)
        y, x = random.integers(8, 25, 2).tolist()
        kind = ("ring", "cross")[number % 2]
        if kind == "ring":
            cv2.circle(pixels, (x, y), 4, (200, 200, 200), 1)
        else:
            cv2.line(pixels, (x - 4, y - 4), (x + 4, y + 4), (40, 220, 40))
            cv2.line(pixels, (x - 4, y + 4), (x + 4, y - 4), (40, 220, 40))
        if kind == "ring" and number // 2 < WATERMARKED:
            pixels[26:30, 26:30] = (255, 40, 40)
        path = folder / kind / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes())
    return folder


@pytest.fixture(scope="module")
def trained(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained to tell rings from crosses."""
    keras.utils.set_random_seed(0)
    paths = sorted(photographs.rglob("*.png"))
    images = np.stack([cv2.imread(str(path))[..., ::-1] for path in paths]).astype(np.float32) / 255
    labels = np.array([path.parent.name == "ring" for path in paths], np.int64)
    layers = keras.layers
    x = inputs = keras.Input((32, 32, 3))
    for name in ("first", "last"):
        x = layers.Conv2D(8, 3, activation="relu", name=name)(x)
    x = layers.Dense(2, activation="softmax", name="classes")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x, name="rings")
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=80, epochs=60, verbose=0)
    path = tmp_path_factory.mktemp("rings") / "rings.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def marked(trained: Path, photographs: Path, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The job that explains all of them, with every aggregate."""
    folder = tmp_path_factory.mktemp("aggregated")
    spec = folder / "marked.toml"
    spec.write_text(
        f'name = "marked"\nstages = ["gradcam", "report"]\n[model]\nsource = "file:{trained}"\npreprocess = "unit"\n'
        f'layers = ["last"]\n[data]\nsource = "folder:{photographs}"\n[gradcam]\nfirst = 80\nbatch = 16\npictures = 0\n'
        'targets = ["label"]\nmethods = ["gradcam"]\naggregate = ["channels", "places", "clusters"]\n'
        'layers = ["last"]\n'
    )
    return run(load_spec(spec, ["model.labels=" + json.dumps(labels_file(folder))]), folder / "out", reporter=quiet)


def labels_file(folder: Path) -> str:
    (folder / "labels.txt").write_text("cross\nring\n")
    return str(folder / "labels.txt")


def rows(folder: Any, name: str) -> list[Any]:
    return read_index(folder, name).to_pylist()


def test_a_planted_watermark_is_found_and_said(marked: Any) -> None:
    clusters = rows(marked, "evidence_clusters")
    (suspicious,) = [row for row in clusters if row["suspicious"]]
    assert suspicious["target"] == "ring" and suspicious["images"] >= WATERMARKED
    y1, x1, *_ = suspicious["box"]
    assert min(y1, x1) >= 0.7 and suspicious["area"] <= 0.1
    (line,) = json.loads((marked / "run.json").read_text())["stages"]["gradcam"]["suspicions"]
    assert line.startswith("ring: ") and "bottom right" in line


def test_the_page_has_a_view_of_what_carries_each_class(marked: Any) -> None:
    data = (marked / "report" / "data" / "+evidence.js").read_text()
    assert "data:image/png;base64," in data and '"target":"ring"' in data.replace(": ", ":")


def test_where_evidence_lies_is_the_mean_of_maps_as_shares(marked: Any, trained: Path, photographs: Path) -> None:
    model = keras.models.load_model(trained)
    paths = sorted(photographs.rglob("*.png"))
    images = np.stack([cv2.imread(str(path))[..., ::-1] for path in paths]).astype(np.float32) / 255
    maps = keras.Model(model.input, model.get_layer("last").output).predict(images, verbose=0)
    weights = model.get_layer("classes").kernel.numpy()
    for number, name in enumerate(("cross", "ring")):
        own = maps[[path.parent.name == name for path in paths]]
        cells = [grid(np.maximum(of_image @ weights[:, number], 0)) for of_image in own]  # GradCAM behind a mean pool
        shares = np.array([of_image / of_image.sum() for of_image in cells if of_image.any()])
        (row,) = [row for row in rows(marked, "evidence_places") if row["target"] == name]
        assert row["images"] == len(shares)
        np.testing.assert_allclose(np.reshape(row["map"], row["shape"]), shares.mean(axis=0), rtol=1e-3, atol=1e-6)


def test_the_evidence_of_channels_is_the_mean_of_gradient_times_activation(marked: Any, trained: Path, photographs: Path) -> None:
    model = keras.models.load_model(trained)
    paths = sorted(photographs.rglob("*.png"))
    images = np.stack([cv2.imread(str(path))[..., ::-1] for path in paths]).astype(np.float32) / 255
    maps = keras.Model(model.input, model.get_layer("last").output).predict(images, verbose=0)
    weights = model.get_layer("classes").kernel.numpy()
    for number, name in enumerate(("cross", "ring")):
        own = maps[[path.parent.name == name for path in paths]].mean(axis=(1, 2)) * weights[:, number]  # a mean pool, then dense
        table = {row["channel"]: row for row in rows(marked, "evidence") if row["target"] == name}
        np.testing.assert_allclose([table[channel]["mean"] for channel in range(8)], own.mean(axis=0), rtol=1e-3, atol=1e-5)
        assert [table[channel]["share_positive"] for channel in range(8)] == pytest.approx((own > 0).mean(axis=0))
        assert sum(row["share"] for row in table.values()) == pytest.approx(1)
        ranked = sorted(table.values(), key=lambda row: row["rank"])
        assert [row["mean"] for row in ranked] == sorted((row["mean"] for row in ranked), reverse=True)


def test_the_order_of_the_images_does_not_change_a_bit(rectified: Any, opened: Any, photos: Any) -> None:
    images = photos(12, 16, 16)
    network = opened(rectified)
    layer = "end"
    explainer = explainer_of(network, [("gradcam", layer), ("input_x_gradient", None)], 4, channels={layer: evidence_at(layer)})

    def columns(order: Any) -> Any:
        subjects = Subjects(explainer.plan.targets)
        collectors = {name: make(subjects) for name, (_, make) in AGGREGATES.items()}
        for start in range(0, 12, 4):
            numbers = order[start : start + 4]
            picked = [Picked(int(n), Image(f"{n}", None, images[n], None), images[n]) for n in numbers]
            explained = explainer.explain(ImageBatch(picked, images[numbers], [[0]] * 4))
            for collector in collectors.values():
                collector.add(explained)
        return {name: collector.columns() for name, collector in collectors.items()}

    def lists(columns: Any) -> Any:
        return {name: [np.asarray(cell).tolist() for cell in cells] for name, cells in columns.items()}

    first, second = columns(np.arange(12)), columns(np.r_[4:8, 0:4, 8:12])
    third = columns(np.r_[8:12, 0:4, 4:8])
    for name in AGGREGATES:
        assert lists(first[name]) == lists(second[name]) == lists(third[name]) and first[name]["class"]


def test_a_map_that_is_even_has_as_much_at_the_border_as_is_to_be_expected() -> None:
    for shape in ((14, 14), (7, 7), (6, 10)):
        share, even = at_the_border(np.ones(shape))
        assert share == pytest.approx(even) == pytest.approx(1 - 0.75**2)
    corner = np.zeros((14, 14))
    corner[0, 0] = 1
    assert at_the_border(corner)[0] == pytest.approx(1)
    middle = np.zeros((14, 14))
    middle[7, 7] = 1
    assert at_the_border(middle)[0] == pytest.approx(0)


def test_a_grid_holds_all_that_speaks_for_a_target() -> None:
    values = np.random.default_rng(0).normal(size=(33, 20)).astype(np.float32)
    assert grid(values).shape == (14, 14) and grid(values).sum() == pytest.approx(np.maximum(values, 0).sum(), rel=1e-5)
    assert grid(np.stack([values] * 3, axis=-1)).sum() == pytest.approx(3 * np.abs(values).sum(), rel=1e-5)
    assert grid(values[:5, :4]).shape == (5, 4)


def test_maps_of_two_strategies_make_two_clusters_and_maps_of_one_make_one() -> None:
    random = np.random.default_rng(0)
    maps = random.uniform(0, 0.2, (60, 6, 6)).astype(np.float32)
    maps[:40, 0, 0] += 3
    maps[40:, 4, 4] += 3
    labels, _ = clusters_of(maps)
    assert len(set(labels[:40])) == len(set(labels[40:])) == 1 and labels[0] != labels[40]


def clusters_by(position_of: Any, seed: int) -> list[dict[str, Any]]:
    """The clusters of 40 maps of 28 x 28 with a blob on noise each, where `position_of` (number, random generator) puts it."""
    random = np.random.default_rng(seed)
    maps = random.uniform(0, 0.1, (40, 28, 28)).astype(np.float32)
    for number in range(40):
        y, x = position_of(number, random)
        maps[number, y : y + 6, x : x + 6] += 1
    picked: Any = [
        SimpleNamespace(example=number, image=SimpleNamespace(key=f"{number}.png", label=None)) for number in range(40)
    ]
    batch = ImageBatch(picked, maps, [[0]] * 40)
    maps_of = {("gradcam", "last"): maps[:, np.newaxis]}
    collector = MapClusters(Subjects((ClassTarget(Classes(2, None), 0),)))
    collector.add(Explained(batch, np.zeros((40, 2)), np.zeros((40, 1), int), [[0]] * 40, maps_of))
    columns = collector.columns()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_an_object_that_moves_about_is_no_watermark_though_its_maps_form_clusters(seed: int) -> None:
    anywhere = clusters_by(lambda number, random: random.integers(0, 22, 2), seed)
    corners = [(0, 0), (0, 16), (16, 8)]
    three = clusters_by(lambda number, random: corners[number % 3] + random.integers(0, 6, 2), seed)
    assert len(three) == 3 and not any(row["suspicious"] for row in (*anywhere, *three))
    assert not any(row["suspicious"] for row in clusters_by(lambda number, random: (9, 14), seed))  # where objects mostly are


@pytest.mark.parametrize("corner", [(0, 0), (22, 22), (0, 11), (11, 22)])
def test_what_stands_still_away_from_the_middle_is_suspicious(corner: Any) -> None:
    rows_of = clusters_by(lambda number, random: corner if number < 24 else random.integers(4, 18, 2), 0)
    (suspicious,) = [row for row in rows_of if row["suspicious"]]
    assert suspicious["images"] >= 20 and suspicious["area"] < 0.1
