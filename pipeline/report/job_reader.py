"""The one reader of a job's folder: receipt, tables and crops, each read at most once, whatever is there and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import one_line
from pipeline.receipt import Receipt, read_receipt
from pipeline.store.files import file_name
from pipeline.store.places import Place
from pipeline.store.tables import INDEX, read_index, read_table

Row = dict[str, Any]

DAMAGED = "Its tables are damaged, or of another program: run the job again with --anew."


@dataclass(frozen=True)
class JobReader:
    """The tables, crops and pictures of one job.

    A table that is not there is empty; a column that is not there is null.

    Attributes:
        gaps: what could not be read, in sentences; grows while tables are read.
    """

    folder: Place
    gaps: list[str] = field(default_factory=list)
    _tables: dict[str, pa.Table] = field(default_factory=dict)
    _by_layer: dict[str, dict[str, pa.Table]] = field(default_factory=dict)

    @cached_property
    def receipt(self) -> Receipt:
        """run.json, of whatever version. Raises: WrongSpec, where there is none that can be read."""
        return read_receipt(self.folder, any_format=True)

    def table(self, name: str) -> pa.Table:
        """index/NAME.parquet with every column of its schema."""
        if name not in self._tables:
            self._tables[name] = self._read(name)
        return self._tables[name]

    def rows(self, name: str, layer: str) -> pa.Table:
        """The rows of a table that are about one layer, in the table's order."""
        return self._layers_of(name).get(layer, INDEX[name].empty_table())

    def kernels(self, layer: str) -> list[Row]:
        """The rows of the filters that give a layer its channels: its own, or those of the one convolution before it."""
        kernels = self.rows("filters", layer).to_pylist()
        if kernels:
            return kernels
        before = [rows for rows in self._layers_of("filters").values() if layer in (rows["gives"][0].as_py() or [])]
        return before[0].to_pylist() if len(before) == 1 else []

    @property
    def layers(self) -> list[str]:
        """The layers of the job, in the network's order, then those that only tables name."""
        tables = (self._layers_of(name) for name in ("fields", "channels", "activations"))
        return list(dict.fromkeys([*self.receipt.layers, *(layer for table in tables for layer in table)]))

    def names(self, layer: str) -> dict[int, Row]:
        """The rows of index/concepts.parquet that name channels of a layer, one for each: of several, the one that chance would
        give least often, of those the one that fits most of the channel's winners, and of those the first.
        """
        named: dict[int, Row] = {}
        for row in self.rows("concepts", layer).to_pylist():
            before = named.get(row["channel"])
            if row["named"] and (before is None or _standing(row) < _standing(before)):
                named[row["channel"]] = row
        return named

    def maps(self, layer: str) -> pa.Table | None:
        """The maps beside the crops of a layer: channel, rank and map; None where there are none."""
        return self.pictures("crops", layer, ("channel", "rank", "map"))

    def patterns(self, layer: str) -> pa.Table | None:
        """The patterns of a layer: channel, sign, variant and image; None where there are none that can be read."""
        return self.pictures("patterns", layer, ("channel", "sign", "variant", "image"))

    def _layers_of(self, name: str) -> dict[str, pa.Table]:
        """{layer: its rows} of a table with a column `layer`."""
        if name not in self._by_layer:
            table = self.table(name)
            layers = pc.unique(table["layer"]).to_pylist() if len(table) else []
            self._by_layer[name] = {layer: table.filter(pc.equal(table["layer"], layer)) for layer in layers if layer is not None}
        return self._by_layer[name]

    def _read(self, name: str) -> pa.Table:
        try:
            table, missing = whole_table(self.folder, name)
        except FileNotFoundError:
            return INDEX[name].empty_table()
        except Exception as error:  # Arrow raises many types over a file that is damaged, or holds other columns
            self._note(f"index/{name}.parquet", error)
            return INDEX[name].empty_table()
        if missing:
            self.gaps.append(f"index/{name}.parquet is from an older version: it has no {', '.join(missing)}.")
        return table

    def pictures(self, folder: str, layer: str, columns: Sequence[str]) -> pa.Table | None:
        name = f"{folder}/{file_name(layer)}.parquet"
        try:
            table = read_table(self.folder / name, columns)
            return table if set(columns) <= set(table.column_names) else None
        except FileNotFoundError:
            return None
        except Exception as error:  # as in `_read`
            self._note(name, error)
            return None

    def _note(self, name: str, error: Exception) -> None:
        self.gaps.append(f"{name} cannot be read ({one_line(error)}).")


def whole_table(folder: Place, name: str) -> tuple[pa.Table, list[str]]:
    """index/NAME.parquet with every column of its schema, and which of them an older version did not write: those are null.

    Raises: FileNotFoundError; what Arrow does, over a file that is damaged, or holds columns of other types.
    """
    table, schema = read_index(folder, name), INDEX[name]
    missing = [column.name for column in schema if column.name not in table.column_names]
    columns = [
        pa.nulls(len(table), column.type) if column.name in missing else table[column.name].cast(column.type) for column in schema
    ]
    return pa.table(columns, schema=schema), missing


def _standing(row: Row) -> tuple[float, float]:
    """How sure a name is: the less, the surer. Jobs of before there were shares that fit have none."""
    return row["chance"], -(row["fits"] or 0)
