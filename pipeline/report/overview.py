"""The overview: what the page says before anyone clicks."""

from __future__ import annotations

from typing import Any

from pipeline.receipt import Receipt, StageRecord
from pipeline.report.job_reader import JobReader, Row
from pipeline.report.section import Sections


def overview(reader: JobReader, sections: Sections, layers: list[Row], images: dict[int, list[Any]]) -> Row:
    """The job's facts, its layers, what it lacks, and how to make that."""
    receipt = reader.receipt
    missing = [name for name in sections if name not in receipt.stages]
    return {
        "name": receipt.name,
        # A run that waits for nothing but the page counts as finished.
        "state": receipt.state if set(missing) & set(receipt.spec["stages"]) else "finished",
        "facts": _facts(receipt),
        "missing": [{"name": name, "shows": sections[name].shows, "how": _how_to_run(name, receipt)} for name in missing],
        "gaps": list(reader.gaps),
        "layers": layers,
        "images": images,
        "input": receipt.input,
    }


def _facts(receipt: Receipt) -> list[tuple[str, str]]:
    scan = next((record for record in receipt.stages.values() if record.images_per_second is not None), StageRecord())
    facts = [
        ("network", receipt.spec["model"]["source"]),
        *((key, f"{setting['value']} ({setting['reason']})") for key, setting in receipt.settings.items()),
        ("data", receipt.spec["data"]["source"]),
        ("examples", f"{receipt.examples:,}"),
        ("run", scan.started),
        ("speed", f"{scan.images_per_second:,g} images/s" if scan.images_per_second else ""),
        ("unreadable", f"{scan.skipped:,} images, listed in index/skipped.parquet" if scan.skipped else ""),
        ("model digest", receipt.digests.get("model", "")),
        ("data digest", receipt.digests.get("data", "")),
        ("made with", ", ".join(f"{name} {version}" for name, version in receipt.versions.items() if version)),
    ]
    return [(name, value) for name, value in facts if value]


def _how_to_run(stage: str, receipt: Receipt) -> str:
    asked = stage in receipt.spec["stages"]
    return "run the job to its end" if asked else f"add {stage!r} to the spec's stages and run it again"
