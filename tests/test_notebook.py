"""The notebook in docs/: it runs from its first cell to its last, and shows what it is stored with."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


def shown(notebook: nbformat.NotebookNode) -> list[list[set[str]]]:
    """The forms of what each cell shows."""
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    return [[set(output.data) for output in of_cell if output.output_type != "stream"] for of_cell in outputs]


def test_the_notebook_runs_and_shows_what_it_is_stored_with(tmp_path: Path) -> None:
    stored, run = nbformat.read(NOTEBOOK, 4), nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(run, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert shown(run) == shown(stored)
    pages = [
        "".join(output.data.get("text/html", "") for output in cell.outputs if "data" in output) for cell in run.cells[3::2][:1]
    ]
    assert pages and all("<img " in page and "conv2 / 7" in page for page in pages)
    assert list(tmp_path.iterdir()) == []  # nothing is left where it runs
