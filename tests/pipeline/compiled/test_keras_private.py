"""The contracts with Keras: what convscope relies on beyond the documented API, one test for each function."""

from __future__ import annotations

import contextlib
import json
import threading
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from pipeline.compiled.keras_private import (
    calls_through,
    convolutions_by,
    ends_of,
    error_inside,
    has_graph,
    is_weights_file,
    layers_inside,
    maker_of,
    nodes_of,
    own_attributes,
    run_graph,
    shared_objects,
    size_asked_for,
    unknown_class,
    weights_limited,
)


class Subclassed(keras.Model):
    """A model whose graph stands in its code, with an attribute that Keras uses in sequential models."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = keras.layers.Dense(2)
        self._functional = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])

    def call(self, x: Any) -> Any:
        return self.inner(self._functional(x))


class Derived(keras.Model):
    """A functional model by its arguments, of a class of its own."""


def functional() -> Any:
    x = inputs = keras.Input((8, 8, 3), name="images")
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    y = keras.ops.relu(x)
    return keras.Model(inputs, keras.layers.Add(name="sum")([x, y]))


def sequential() -> Any:
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv"), keras.layers.Flatten(name="flat")])


def error_of(function: Any, *arguments: Any, **options: Any) -> Any:
    with pytest.raises(Exception) as caught:
        function(*arguments, **options)
    return caught.value


def test_convolutions_of_layers_and_operations_are_computed_by_one_function_until_the_block_ends() -> None:
    model, heard = functional(), []

    def call(plain: Any, *arguments: Any, **options: Any) -> Any:
        heard.append([tuple(value.shape) for value in arguments[:2]])
        return plain(*arguments, **options)

    images, kernel = np.ones((1, 8, 8, 3), np.float32), np.ones((3, 3, 3, 2), np.float32)
    right = model(images, training=False)[0], keras.ops.conv(images, kernel)
    with contextlib.suppress(ZeroDivisionError), convolutions_by(call):
        ours = model(images, training=False)[0], keras.ops.conv(images, kernel)
        assert all(map(np.array_equal, ours, right))
        raise ZeroDivisionError
    keras.ops.conv(images, kernel)
    assert heard == [[(1, 8, 8, 3), (3, 3, 3, 4)], [(1, 8, 8, 3), (3, 3, 3, 2)]]


def test_functional_and_built_sequential_models_have_a_graph_and_others_do_not() -> None:
    inputs = keras.Input((3,))
    subclassed = Subclassed()
    subclassed(np.zeros((1, 3), np.float32))
    assert has_graph(functional()) and has_graph(sequential()) and has_graph(Derived(inputs, keras.layers.Dense(1)(inputs)))
    assert not any(map(has_graph, (subclassed, keras.Sequential([keras.layers.Dense(1)]), keras.layers.Dense(1), None)))


@pytest.mark.parametrize("model", [functional, sequential])
def test_the_ends_of_a_model_are_the_tensors_that_its_nodes_take_and_give(model: Any) -> None:
    model = model()
    inputs, outputs = ends_of(model)
    nodes = nodes_of(model)
    assert len(inputs) == len(outputs) == 1
    assert inputs[0] is nodes[0].inputs[0] and outputs[0] is nodes[-1].outputs[0]


def test_nodes_come_in_forward_order_without_inputs_and_without_calls_in_other_models() -> None:
    model = functional()
    keras.Model(again := keras.Input((8, 8, 3)), model.get_layer("conv")(again))  # a call of the same layer elsewhere
    nodes = nodes_of(model)
    assert [type(node.operation).__name__ for node in nodes] == ["Conv2D", "Relu", "Add"]
    assert nodes[0].operation is model.get_layer("conv") and nodes[2].operation is model.get_layer("sum")
    assert [tensor.shape for tensor in nodes[2].inputs] == [(None, 6, 6, 4)] * 2
    assert nodes[1].inputs[0] is nodes[0].outputs[0] and nodes[2].inputs == (nodes[0].outputs[0], nodes[1].outputs[0])


def test_calls_of_one_layer_are_numbered_in_the_order_in_which_they_were_made_in_this_model() -> None:
    images = keras.Input((8, 8, 3))
    relu = keras.layers.ReLU()
    relu(keras.Input((8, 8, 3)))  # a call that belongs to no model
    first = relu(images)
    second = relu(keras.layers.Conv2D(3, 1)(first))
    nodes = [node for node in nodes_of(keras.Model(images, [second, relu(second)])) if node.operation is relu]
    assert [node.number for node in nodes] == [0, 1, 2]
    assert nodes[0].outputs[0] is first and nodes[1].outputs[0] is second


def test_the_maker_of_a_tensor_is_the_operation_or_the_input_layer_that_gave_it() -> None:
    model = functional()
    assert maker_of(model.inputs[0]).name == "images" and maker_of(model.outputs[0]) is model.get_layer("sum")


def test_a_graph_runs_on_tensors_as_they_are_in_inference() -> None:
    x = keras.layers.Dropout(0.9)(inputs := keras.Input((4,), dtype="uint8"))
    model = keras.Model([inputs], keras.ops.cast(x, "float32") * 2.0)
    halves = np.full((1, 4), 0.5, np.float32)
    np.testing.assert_array_equal(run_graph(model, [keras.ops.convert_to_tensor(halves)]), halves * 2)
    assert not np.any(model([halves], training=False))  # Keras truncates


def test_the_layers_inside_a_layer_are_those_that_it_holds_at_any_depth() -> None:
    inner = keras.layers.Conv2D(2, 1, name="inner")
    outer = keras.layers.TimeDistributed(inner)
    outer(keras.Input((5, 8, 8, 3)))
    assert layers_inside(outer) == [inner] and layers_inside(inner) == [] and layers_inside(keras.ops.relu) == []


def test_calls_of_layers_operations_and_models_go_through_one_function_in_all_threads_until_the_block_ends() -> None:
    model, heard = functional(), []
    plain_before = keras.Operation.__call__

    def call(operation: Any, *arguments: Any, **options: Any) -> Any:
        heard.append(operation.name)
        return plain(operation, *arguments, **options)

    images = np.ones((1, 8, 8, 3), np.float32)
    with contextlib.suppress(ZeroDivisionError), calls_through(call) as plain:
        model(images, training=False)
        thread = threading.Thread(target=keras.layers.Identity(name="elsewhere"), args=(images,))
        thread.start()
        thread.join()
        raise ZeroDivisionError
    assert plain is plain_before is keras.Operation.__call__
    assert heard[0] == model.name and {"conv", "sum", "elsewhere"} <= set(heard)


def test_keras_keeps_sublayers_in_attributes_of_its_own_and_a_models_are_not_among_them() -> None:
    model = Subclassed()
    model.blocks = [keras.layers.Dense(1)]
    assert "_layers" in own_attributes()
    assert {"inner", "blocks", "_functional"} <= vars(model).keys() - own_attributes()


@pytest.mark.parametrize("name", ["own.weights.h5", "own.h5"])
def test_files_of_weights_alone_are_known_by_their_layout(name: Any, tmp_path: Path) -> None:
    model = functional()
    path = tmp_path / name
    if name == "own.weights.h5":
        model.save_weights(path)
    else:
        with h5py.File(path, "w") as file:  # as Keras 2 wrote weights
            file.attrs["layer_names"] = [b"conv"]
    with h5py.File(path) as file:
        assert "model_config" not in file.attrs and is_weights_file(file)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        assert not is_weights_file(file)


def test_the_error_for_a_class_that_keras_does_not_know_names_it(tmp_path: Path) -> None:
    model = sequential()
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))
        others = {name: archive.read(name) for name in archive.namelist() if name != "config.json"}
    text = json.dumps(config).replace(
        '"module": "keras.layers", "class_name": "Conv2D"', '"module": "mine", "class_name": "Novel"'
    )
    with zipfile.ZipFile(tmp_path / "changed.keras", "w") as archive:
        archive.writestr("config.json", text)
        for name, data in others.items():
            archive.writestr(name, data)
    error = error_of(keras.models.load_model, tmp_path / "changed.keras")
    assert unknown_class(error) == "Novel"
    assert unknown_class(ValueError("Layer 'conv' expected 2 variables")) is None


def test_the_same_error_for_a_file_of_keras_two_names_it(tmp_path: Path) -> None:
    sequential().save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace('"Conv2D"', '"Novel"')
    assert unknown_class(error_of(keras.models.load_model, tmp_path / "model.h5", compile=False)) == "Novel"


def test_a_layer_with_one_id_in_two_places_is_one_layer() -> None:
    config = {**keras.saving.serialize_keras_object(keras.layers.Dense(2)), "shared_object_id": 7}
    with shared_objects():
        first, second = keras.saving.deserialize_keras_object([config, dict(config)])
    assert first is second


def test_layers_get_no_more_weights_than_the_limit() -> None:
    with weights_limited(8):
        keras.layers.Dense(2).build((None, 3))
    with weights_limited(7), pytest.raises(ValueError, match="asks for more weights than the 7 numbers"):
        keras.layers.Dense(2).build((None, 3))
    keras.layers.Dense(2).build((None, 3))


def test_the_error_inside_of_nested_models_is_given() -> None:
    config = keras.saving.serialize_keras_object(keras.Sequential([keras.Sequential([keras.layers.Dense(2)])]))
    config["config"]["layers"][0]["config"]["layers"][0]["config"]["units"] = "many"
    error = error_inside(error_of(keras.saving.deserialize_keras_object, config))
    assert "many" in str(error) and "could not be deserialized" not in str(error)


@pytest.mark.parametrize(("builder", "size"), [("VGG16", (224, 224)), ("InceptionV3", (299, 299)), ("NASNetLarge", (331, 331))])
def test_a_builder_that_is_asked_for_an_impossible_size_names_its_own(builder: Any, size: Any) -> None:
    build = getattr(keras.applications, builder)
    assert size_asked_for(error_of(build, weights="imagenet", include_top=True, input_shape=(1, 1, 3))) == size
    assert size_asked_for(ValueError("The `weights` argument should be a path")) is None
