"""Shelf: a job's folder as the page's maker finds it, whatever is there and whatever is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.receipt import read_receipt
from pipeline.store.files import file_name
from pipeline.store.places import Place
from pipeline.store.tables import INDEX

Row = dict[str, Any]


@dataclass(frozen=True)
class Shelf:
    """The tables, crops and pictures of one job.

    A table that is not there is empty; a column that is not there is null. What was missed is in `gaps`.
    """

    folder: Place

    @cached_property
    def receipt(self) -> Row:
        """run.json. Raises: WrongSpec, where there is none that can be read."""
        return read_receipt(self.folder, any_format=True).as_json()

    @cached_property
    def gaps(self) -> list[str]:
        """What could not be read, in sentences; grows while tables are read."""
        return []

    def table(self, name: str) -> pa.Table:
        """index/NAME.parquet with every column of its schema."""
        schema = INDEX[name]
        path = self.folder / "index" / f"{name}.parquet"
        try:
            with path.open("rb") as file:
                found = pq.read_table(file)
        except FileNotFoundError:
            return schema.empty_table()
        except (OSError, pa.ArrowInvalid) as error:
            self.gaps.append(f"index/{name}.parquet cannot be read ({str(error).splitlines()[0]}).")
            return schema.empty_table()
        missing = [column.name for column in schema if column.name not in found.column_names]
        if missing:
            self.gaps.append(f"index/{name}.parquet is from an older version: it has no {', '.join(missing)}.")
        columns = [
            found[column.name].cast(column.type) if column.name in found.column_names else pa.nulls(len(found), column.type)
            for column in schema
        ]
        return pa.table(columns, schema=schema)

    @cached_property
    def tables(self) -> dict[str, dict[str, pa.Table]]:
        """Every table of the index that tells of layers, as {table: {layer: rows}}."""
        found = {}
        for name, schema in INDEX.items():
            if "layer" in schema.names:
                found[name] = _by_layer(self.table(name))
        return found

    def rows(self, name: str, layer: str) -> pa.Table:
        """The rows of a table that tell of one layer, in the table's order."""
        return self.tables[name].get(layer, INDEX[name].empty_table())

    def kernels(self, layer: str) -> list[Row]:
        """The rows of the filters that give a layer its channels: its own, or those of the one convolution before it."""
        own = self.rows("filters", layer).to_pylist()
        if own:
            return own
        before = [rows for rows in self.tables["filters"].values() if layer in (rows["gives"][0].as_py() or [])]
        return before[0].to_pylist() if len(before) == 1 else []

    @property
    def layers(self) -> list[str]:
        """The layers of the job, in the network's order, then those that only tables name."""
        named = list(self.receipt.get("layers", []))
        for name in ("fields", "channels", "activations"):
            named += [layer for layer in self.tables[name] if layer not in named]
        return named

    def crops(self, layer: str, columns: Sequence[str] = ("channel", "rank", "image")) -> pa.Table | None:
        """The crops of a layer; None where there are none that can be read."""
        path = self.folder / "crops" / f"{file_name(layer)}.parquet"
        try:
            with path.open("rb") as file:
                return pq.read_table(file, columns=list(columns))
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowInvalid) as error:
            self.gaps.append(f"crops/{path.name} cannot be read ({str(error).splitlines()[0]}).")
            return None


def _by_layer(table: pa.Table) -> dict[str, pa.Table]:
    names = pc.unique(table["layer"]).to_pylist() if len(table) else []
    return {name: table.filter(pc.equal(table["layer"], name)) for name in names if name is not None}
