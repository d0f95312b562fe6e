"""The overview: what the page says before anyone clicks."""

from __future__ import annotations

from typing import Any

from pipeline.report.job_reader import JobReader, Row
from pipeline.report.section import Sections


def overview(reader: JobReader, sections: Sections, layers: list[Row], images: dict[int, list[Any]]) -> Row:
    """The job's facts, its layers, what it lacks, and how to make that."""
    receipt = reader.receipt
    spec, stages = receipt["spec"], receipt.get("stages", {})
    return {
        "name": receipt.get("name", ""),
        "state": _state(receipt),
        "facts": _facts(receipt),
        "missing": _missing(sections, spec, stages),
        "gaps": list(reader.gaps),
        "layers": layers,
        "images": images,
        "input": receipt.get("input"),
    }


def _state(receipt: Row) -> str:
    """The job's state for its page: a run that waits for nothing but the page counts as finished."""
    waiting = set(receipt["spec"]["stages"]) - receipt.get("stages", {}).keys() - {"report"}
    return receipt.get("state", "unknown") if waiting else "finished"


def _facts(receipt: Row) -> list[tuple[str, str]]:
    spec, stages = receipt["spec"], receipt.get("stages", {})
    scan = stages.get("activations", {})
    facts = [
        ("network", spec["model"]["source"]),
        ("data", spec["data"]["source"]),
        ("examples", f"{receipt['examples']:,}" if "examples" in receipt else ""),
        ("run", scan.get("started", "")),
        ("speed", f"{scan['images_per_second']:,g} images/s" if scan.get("images_per_second") else ""),
        ("unreadable", f"{scan['skipped']:,} images, listed in index/skipped.parquet" if scan.get("skipped") else ""),
        ("model digest", receipt.get("digests", {}).get("model", "")),
        ("data digest", receipt.get("digests", {}).get("data", "")),
        ("made with", ", ".join(f"{name} {version}" for name, version in receipt.get("versions", {}).items() if version)),
    ]
    return [(name, value) for name, value in facts if value]


def _missing(sections: Sections, spec: Row, stages: Row) -> list[Row]:
    """The stages that have not run, what they would show and how to run them."""
    missing = []
    for name, section in sections.items():
        if name not in stages:
            how = "run the job to its end" if name in spec["stages"] else f"add {name!r} to the spec's stages and run it again"
            missing.append({"name": name, "shows": section.shows, "how": how})
    return missing
