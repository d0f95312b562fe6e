"""The schemas of the tables that the stage `concepts` writes into the index."""

from __future__ import annotations

import pyarrow as pa

CONCEPTS = pa.schema(
    [
        ("layer", pa.string()),
        ("channel", pa.int32()),
        ("concept", pa.string()),
        ("source", pa.string()),
        ("measure", pa.string()),
        ("value", pa.float64()),
        ("rank", pa.int32()),
        ("margin", pa.float64()),
        ("chance", pa.float64()),
        ("named", pa.bool_()),
    ]
)

QUALITY = pa.schema(
    [
        ("layer", pa.string()),
        ("channel", pa.int32()),
        ("clarity", pa.float64()),
        ("polysemanticity", pa.float64()),
        ("redundancy", pa.float64()),
        ("alike", pa.int32()),
    ]
)
