"""The schemas of the tables that the stage `circuits` writes into the index."""

from __future__ import annotations

import pyarrow as pa

from pipeline.store.columns import list_of

CIRCUIT_TABLES: dict[str, pa.Schema] = {
    "circuits": pa.schema(
        [
            ("layer", pa.string()),
            ("channel", pa.int32()),
            ("side", pa.string()),
            ("other_layer", pa.string()),
            ("other_channel", pa.int32()),
            ("rank", pa.int32()),
            ("weight", pa.float64()),
            ("norm", pa.float64()),
            ("share", pa.float64()),
            ("contribution", pa.float64()),
            ("contribution_rank", pa.int32()),
            ("agreement", pa.float64()),
            ("kernel", list_of(pa.float32())),
            ("kernel_shape", list_of(pa.int32())),
        ]
    ),
    "stretches": pa.schema(
        [
            ("layer", pa.string()),
            ("other_layer", pa.string()),
            ("row", pa.int32()),
            ("col", pa.int32()),
            ("passed", list_of(pa.string())),
            ("ended", list_of(pa.string())),
            ("agreement", pa.float64()),
        ]
    ),
}
