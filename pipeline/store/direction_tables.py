"""The schemas of the index tables of directions."""

from __future__ import annotations

import pyarrow as pa

from pipeline.store.columns import list_of

DIRECTION_TABLES: dict[str, pa.Schema] = {
    "directions": pa.schema(
        [
            ("layer", pa.string()),
            ("channel", pa.int32()),
            ("base", pa.string()),
            ("method", pa.string()),
            ("name", pa.string()),
            ("share_active", pa.float64()),
            ("dead", pa.bool_()),
            ("strength", pa.float64()),
            ("explained", pa.float64()),
            ("vectors", pa.int64()),
            ("strongest_channels", list_of(pa.int32())),
            ("channel_weights", list_of(pa.float64())),
            ("path", pa.string()),
            ("split_channel", pa.int32()),
            ("split_ranks", list_of(pa.int32())),
            ("separation", pa.float64()),
        ]
    ),
    "concept_vectors": pa.schema(
        [
            ("layer", pa.string()),
            ("base", pa.string()),
            ("concept", pa.string()),
            ("source", pa.string()),
            ("against", pa.string()),
            ("images", pa.int64()),
            ("runs", pa.int32()),
            ("accuracy", pa.float64()),
            ("random_accuracy", pa.float64()),
            ("agreement", pa.float64()),
            ("path", pa.string()),
        ]
    ),
    "tcav": pa.schema(
        [
            ("layer", pa.string()),
            ("base", pa.string()),
            ("concept", pa.string()),
            ("logits", pa.string()),
            ("number", pa.int32()),
            ("target", pa.string()),
            ("images", pa.int64()),
            ("score", pa.float64()),
            ("random_score", pa.float64()),
            ("scores", list_of(pa.float64())),
            ("random_scores", list_of(pa.float64())),
            ("p", pa.float64()),
            ("p_corrected", pa.float64()),
            ("chance", pa.float64()),
            ("significant", pa.bool_()),
        ]
    ),
    "atlas": pa.schema(
        [
            ("layer", pa.string()),
            ("grid", pa.int32()),
            ("row", pa.int32()),
            ("col", pa.int32()),
            ("vectors", pa.int64()),
            ("label", pa.string()),
            ("label_share", pa.float64()),
            ("channel", pa.int32()),
            ("picture", pa.string()),
        ]
    ),
}

# atlas/LAYER.parquet
ATLAS = pa.schema(
    [
        ("example", pa.int64()),
        ("key", pa.string()),
        ("label", pa.string()),
        ("row", pa.int32()),
        ("col", pa.int32()),
        ("x", pa.float32()),
        ("y", pa.float32()),
    ]
)
