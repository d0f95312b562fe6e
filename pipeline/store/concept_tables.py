"""The schemas of the tables that the stage `concepts` writes into the index."""

from __future__ import annotations

import pyarrow as pa

from pipeline.store.columns import list_of

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
        ("false_discovery", pa.float64()),
        ("fits", pa.float64()),
        ("named", pa.bool_()),
    ]
)

EMBEDDINGS = pa.schema([("layer", pa.string()), ("channel", pa.int32()), ("embedding", list_of(pa.float32()))])

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
