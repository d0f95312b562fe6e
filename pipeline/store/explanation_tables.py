"""The schemas of the tables that the stage `gradcam` writes into the index."""

from __future__ import annotations

import pyarrow as pa

from pipeline.store.columns import box, list_of

_EXPLAINED = [  # the map that a row describes
    ("example", pa.int64()),
    ("key", pa.string()),
    ("method", pa.string()),
    ("layer", pa.string()),
    ("class", pa.int32()),
    ("target", pa.string()),
]

_SUBJECT = [("logits", pa.string()), ("class", pa.int32()), ("target", pa.string())]  # what is explained, for all images
_GRID = [("map", list_of(pa.float64())), ("shape", list_of(pa.int32()))]

_SIMILARITY = pa.schema(
    [
        *_EXPLAINED,
        ("step", pa.int32()),
        ("down_to", pa.string()),
        ("rank_correlation", pa.float64()),
        ("ssim", pa.float64()),
    ]
)

EXPLANATIONS: dict[str, pa.Schema] = {
    "classification": pa.schema(
        [
            ("example", pa.int64()),
            ("key", pa.string()),
            ("label", pa.string()),
            ("rank", pa.int32()),
            ("class", pa.int32()),
            ("name", pa.string()),
            ("logit", pa.float32()),
            ("probability", pa.float64()),
            ("output", pa.float64()),
            ("head", pa.string()),
            ("logits", pa.string()),
            ("box", list_of(pa.float64())),
        ]
    ),
    "attributions": pa.schema(
        [
            ("example", pa.int64()),
            ("key", pa.string()),
            ("label", pa.string()),
            ("method", pa.string()),
            ("layer", pa.string()),
            ("class", pa.int32()),
            ("name", pa.string()),
            ("probability", pa.float64()),
            ("output", pa.float64()),
            ("head", pa.string()),
            ("logits", pa.string()),
            ("target", pa.string()),
            ("gap", pa.float64()),
            ("positive", pa.float64()),
            ("negative", pa.float64()),
            ("digest", pa.string()),
            ("map_height", pa.int32()),
            ("map_width", pa.int32()),
            ("peak", pa.float32()),
            ("row", pa.int32()),
            ("col", pa.int32()),
            *box(),
            *box("src_"),
            ("rule", pa.string()),
            ("replaced", pa.int32()),
            ("picture", pa.string()),
        ]
    ),
    "randomisation": _SIMILARITY,
    "independent": _SIMILARITY,
    "metrics": pa.schema([*_EXPLAINED, ("metric", pa.string()), ("value", pa.float64())]),
    "curves": pa.schema(
        [
            *_EXPLAINED,
            ("kind", pa.string()),
            ("share", pa.float64()),
            ("probability", pa.float64()),
            ("value", pa.float64()),
        ]
    ),
    "evidence": pa.schema(
        [
            ("layer", pa.string()),
            *_SUBJECT,
            ("channel", pa.int32()),
            ("rank", pa.int32()),
            ("images", pa.int64()),
            ("mean", pa.float64()),
            ("share", pa.float64()),
            ("share_positive", pa.float64()),
        ]
    ),
    "evidence_places": pa.schema(
        [
            ("method", pa.string()),
            ("layer", pa.string()),
            *_SUBJECT,
            ("images", pa.int64()),
            ("border", pa.float64()),
            ("border_if_even", pa.float64()),
            *_GRID,
        ]
    ),
    "evidence_clusters": pa.schema(
        [
            ("method", pa.string()),
            ("layer", pa.string()),
            *_SUBJECT,
            ("cluster", pa.int32()),
            ("images", pa.int64()),
            ("share", pa.float64()),
            ("gap", pa.float64()),
            ("border", pa.float64()),
            ("box", list_of(pa.float64())),
            ("area", pa.float64()),
            ("suspicious", pa.bool_()),
            ("keys", list_of(pa.string())),
            *_GRID,
        ]
    ),
}
