"""The data set card beside the crops, which Hugging Face `datasets` and people read first."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from pipeline.store.files import file_name, write_bytes
from pipeline.store.places import Place


def write_card(folder: Place, job: str, layers: Sequence[str]) -> None:
    """Write crops/README.md: each layer is a configuration of one data set. Raises: StoreFailed.

    Args:
        folder: the job's folder.
        job: its name.
    """
    # JSON strings are valid YAML, whatever a layer is called.
    configs = [
        f"- config_name: {json.dumps(file_name(layer))}\n  data_files: {json.dumps(file_name(layer) + '.parquet')}"
        for layer in layers
    ]
    rows = [f"| `{file_name(layer)}` | {_as_code(layer)} |" for layer in layers]
    first = file_name(layers[0]) if layers else "LAYER"
    text = "\n".join(
        [
            *("---", "configs:" if configs else "configs: []", *configs, "tags:", "- convscope", "---", ""),
            *(f"# The strongest patches of {job}", ""),
            "Each row is one patch: what a channel of a layer responded to, and how strongly. Rank 0 is the strongest.",
            "",
            *("```python", "from datasets import load_dataset", ""),
            f'patches = load_dataset("crops", {json.dumps(first)}, split="train")',
            *('patches[0]["image"]  # a PIL image', "```", ""),
            *("| configuration | layer |", "|---|---|", *rows, ""),
        ]
    )
    write_bytes(folder / "crops" / "README.md", text.encode())


def _as_code(name: str) -> str:
    """A layer's name in Markdown: whatever a stranger called it, it ends no cell, opens no tag and links nowhere."""
    if re.fullmatch(r"[\w./:-]+( [\w./:-]+)*", name):
        return f"`{name}`"
    return f"<code>{''.join(character if character.isalnum() else f'&#{ord(character)};' for character in name)}</code>"
