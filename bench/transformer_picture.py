"""The picture of docs/concepts.md and the README: channels of MobileNetV2 beside channels of a vision transformer.

    python -m bench.transformer_picture MOBILENET_V2.h5 VIT_S.onnx OUT.jpg [--work DIR]

The first file holds the weights of MobileNetV2 on ImageNet. Both networks look at the photographs that come with scikit-image, as
the demo does, here in windows of 224 pixels. Pasted side by side are the upper rows of both mosaics: channels 0 to 5 of
block_13_expand_relu, and of the first normalisation of the transformer's last block.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image

LAYERS = {"conv": "block_13_expand_relu", "vit": "/backbone/encoder/layer.11/norm1/Add_1"}
WIDTH, QUALITY = 759, 80  # pixels of each half
HEADING, ROWS = (0, 72), (126, 748)  # of a mosaic: its name and what it looked at, and six rows; what is between does not fit


def mosaic(name: str, model: str, preprocess: str, work: Path) -> Image.Image:
    """The first mosaic of a network's layer; a job that is done is not run again."""
    import convscope

    text = f"""
        name = "{name}"
        stages = ["activations"]
        [model]
        {model}
        preprocess = "{preprocess}"
        layers = ["{LAYERS[name]}"]
        [data]
        source = "sample:photos"
        window = {{ size = 224, stride = 224 }}
        [activations]
        crop = "map"
        per_image = 1
        """
    spec = work / f"{name}.toml"
    spec.write_text(text)
    convscope.run(convscope.load_spec(str(spec)), str(work / "out"))
    return Image.open(min((work / "out" / name / "mosaics" / "activations").glob("*-001.jpg"))).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mobilenet", type=Path)
    parser.add_argument("vit", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--work", type=Path, help="keep the two jobs here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        halves = [
            mosaic("conv", f'source = "keras:MobileNetV2"\nweights = "{options.mobilenet.resolve()}"', "symmetric", work),
            mosaic("vit", f'source = "onnx:{options.vit.resolve()}"', "torch", work),
        ]
        picture = Image.new("RGB", (2 * WIDTH, sum(last - first for first, last in (HEADING, ROWS))))
        for number, half in enumerate(halves):
            for (first, last), top in ((HEADING, 0), (ROWS, HEADING[1])):
                picture.paste(half.crop((0, first, WIDTH, last)), (number * WIDTH, top))
        picture.save(options.picture, quality=QUALITY)


if __name__ == "__main__":
    main()
