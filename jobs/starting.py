"""A commented spec for a network and images, to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.load import spec_of
from pipeline.spec import STAGES
from pipeline.spec.writing import as_toml

_COMMENTS = {
    "": """A job of convscope. What a key means: convscope help activations.crop
Look before you run: convscope check FILE; every key can be changed for one run: --set data.limit=100""",
    "name": "The results go to out/NAME.",
    "stages": "Also: {others}.",
    "model.layers": "Names or globs of layers; all: convscope layers {source}\nThese are {rule}.",
    "data.limit": "Try a few images first: limit = 100",
    "data.batch": "Lower it where memory is short.",
    "activations": "How many patches a channel keeps, and how they are cut.",
}


def commented_spec(tree: dict[str, Any]) -> str:
    """The TOML of a spec, with comments; layers that it does not name are chosen, for which the network is opened.

    Raises: any WrongSpec.
    """
    spec = spec_of({**tree, "model": dict(tree["model"]), "data": dict(tree["data"])}, Path.cwd())
    comments = dict(_COMMENTS)
    comments["stages"] = _COMMENTS["stages"].format(others=", ".join(stage for stage in STAGES if stage not in spec.stages))
    layers = tree["model"].get("layers")
    if layers is None:
        from pipeline.models.registry import open_network
        from pipeline.models.selection import RULE, choose_layers
        from pipeline.run import start_tensorflow

        start_tensorflow()
        of_keras = {"weights": "none"} if spec.model.source.startswith("keras:") else {}  # names need no download
        model = spec.model.model_copy(update=of_keras)
        layers = choose_layers(open_network(model))
        comments["model.layers"] = _COMMENTS["model.layers"].format(rule=RULE, source=tree["model"]["source"])
    else:
        comments["model.layers"] = f"Names or globs of layers; all: convscope layers {tree['model']['source']}"
    defaults = {"top_k": spec.activations.top_k, "crop": spec.activations.crop}
    full = {
        "name": tree["name"],
        "stages": list(spec.stages),
        "model": {**tree["model"], "layers": layers},
        "data": {**tree["data"], "batch": spec.data.batch},
        "activations": defaults,
    }
    return as_toml(full, comments)
