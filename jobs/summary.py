"""What a job's folder holds, for people."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.progress import counted
from pipeline.receipt import StageRecord, find_receipt, read_receipt
from pipeline.store.places import Place


def summary(folder: Place) -> list[str]:
    """A summary of a job's folder, line by line. Raises: WrongSpec, for a folder without a job."""
    parts = _parts(folder)
    if parts and find_receipt(folder) is None:
        return [f"{folder.name}: shards, not merged yet", *parts]
    receipt = read_receipt(folder)
    lines = [f"{receipt.name}: {receipt.state}, {counted(receipt.examples, 'example')}, {counted(len(receipt.layers), 'layer')}"]
    for stage in receipt.spec["stages"]:
        record = receipt.stages.get(stage)
        if record is None:
            lines.append(f"  {stage}: not run yet")
            continue
        lines.append(f"  {stage}: {_about(record)}{record.seconds:g} s in all")
        if record.skipped:
            lines.append(f"    {counted(record.skipped, 'image')} could not be read: index/skipped.parquet")
        for layer, count in record.nans.items():
            lines.append(f"    {layer}: {counted(count, 'value')} {'was' if count == 1 else 'were'} NaN and ignored")
        if stage == "activations":
            lines += _health(folder)
        if stage == "concepts":
            lines += _names(folder, receipt.layers)
    lines += parts
    rows = []
    for part, noun in (("mosaics", "pictures"), ("index", "tables"), ("crops", "patches")):
        files = sorted(path for path in (folder / part).rglob("*") if path.is_file() and not path.name.startswith("."))
        if files:
            size = sum(path.stat().st_size for path in files) / 1e6
            rows.append((f"  {noun}:", f"{folder / part}: {counted(len(files), 'file')}, {size:.1f} MB"))
    lines += as_table([("", ""), *rows])[1:]
    mosaics = folder / "mosaics"
    pictures = sorted([*mosaics.rglob("*-crop.png"), *mosaics.rglob("*-crop-001.*")]) or sorted(mosaics.rglob("*.png"))
    page = folder / "report" / "index.html"
    lines += [f"  look at: {path}" for path in ([page] if page.exists() else pictures[-1:])]
    return lines


def _health(folder: Place) -> list[str]:
    """A row for each layer: its channels, those that never fire, and those whose last winner ties with images that are none."""
    from pipeline.report.job_reader import JobReader

    reader = JobReader(folder)
    channels = reader.table("channels").to_pydict()  # empty if somebody took it away: the receipt says what there was
    rows = [("layer", "channels", "never fire", "tied", "")]
    for layer in dict.fromkeys(channels["layer"]):
        of_layer = [row for row, name in enumerate(channels["layer"]) if name == layer]
        dead = [str(channels["channel"][row]) for row in of_layer if channels["dead"][row]]
        tied = sum(bool(channels["ties"][row]) for row in of_layer)
        some = f"never: {', '.join(dead[:10])}{', …' if len(dead) > 10 else ''}" if dead else ""
        rows.append((layer, f"{len(of_layer):,}", f"{len(dead):,}", f"{tied:,}", some))
    return [f"    {gap}" for gap in reader.gaps if "older version" not in gap] + (as_table(rows, "    ") if len(rows) > 1 else [])


def _names(folder: Place, layers: Sequence[str]) -> list[str]:
    """A row for each layer: how many of its channels have a name, and the surest of them."""
    from pipeline.report.job_reader import JobReader

    reader = JobReader(folder)
    rows = [("layer", "named", "")]
    for layer in layers:
        named = sorted(reader.names(layer).values(), key=lambda row: (row["chance"], row["measure"], -(row["margin"] or 0)))
        some = ", ".join(f"{row['channel']} {row['concept']}" for row in named[:5])
        rows.append((layer, f"{len(named):,}", f"{some}{', …' if len(named) > 5 else ''}"))
    return as_table(rows, "    ")


def as_table(rows: Sequence[tuple[str, ...]], indent: str = "") -> list[str]:
    """Rows as lines, the first row being the heads; columns of numbers are set to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [any(column[1:]) and all(cell.replace(",", "").isdigit() for cell in column[1:]) for column in columns]
    cells = [[cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)] for row in rows]
    return [f"{indent}{'  '.join(row)}".rstrip() for row in cells]


def _parts(folder: Place) -> list[str]:
    """The progress of every scan that has a part in the folder."""
    if not any(True for _ in (folder / "parts").glob("*.part")):
        return []
    from pipeline.activations.part_file import saved_parts

    lines = []
    for saved in saved_parts(folder):
        first, last = saved.bounds
        owner = "the scan" if saved.shard.count == 1 else f"shard {saved.shard.index + 1} of {saved.shard.count}"
        lines.append(f"  {owner}: {saved.part.done:,} of {last - first:,} examples are saved")
    return lines


def _about(record: StageRecord) -> str:
    """The summary of a stage: its own sentence or, for the scan, its speed and where the time went."""
    spent = record.scan_seconds
    if not spent:
        return f"{record.summary}, " if record.summary else ""
    total = sum(spent.values())
    if not total:
        return f"{counted(record.images or 0, 'image')}, scanned by earlier runs, "
    share = ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in spent.items())
    reduced = "" if record.precision == "float32" else f" in {record.precision}"
    gpu = "" if record.gpu_busy is None else f", GPU busy {record.gpu_busy:.0%}"
    rest = f"receptive fields {record.fields_seconds:.1f} s, patches and index {record.writing_seconds:.1f} s"
    return f"{counted(record.images or 0, 'image')}{reduced} at {record.images_per_second or 0:g}/s ({share}{gpu}), {rest}, "
