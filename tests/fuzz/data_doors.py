"""Doors of data sets."""

from __future__ import annotations

import shutil
import sys
import zlib
from pathlib import Path
from random import Random

import pyarrow as pa
import workshop
from door import READ, Commands, Door
from mutation import NASTY, a_value, mutate_bytes, mutate_text, mutate_tree
from workshop import Workshop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from framing import framed


def _read(shop: Workshop, folder: Path, source: str, *more: str) -> Commands:
    (folder / "job.toml").write_text(shop.spec(data="\n".join([f'source = "{source}"', *more])))
    return [["check", f"{folder}/job.toml", "--out", f"{folder}/out"], [READ, f"{folder}/job.toml"]]


def _mutate_parquet(random: Random, data: bytes) -> bytes:
    if random.random() < 0.3:
        return mutate_bytes(random, data)
    rows, features = workshop.table()
    for _ in range(random.choice((1, 2))):
        row = random.randrange(workshop.PICTURES)
        match random.randrange(6):
            case 0:
                rows["image"][row] = {"bytes": None, "path": random.choice([text for text in NASTY if isinstance(text, str)])}
            case 1:
                image = rows["image"][row]["bytes"] or b"x"
                rows["image"][row] = {"bytes": mutate_bytes(random, image), "path": None}
            case 2:
                features = mutate_tree(random, features)
            case 3:
                rows["label"] = [a_value(random)] * workshop.PICTURES
            case 4:
                rows[random.choice(("label", "image", "x\0", ""))] = random.choice(
                    ([None] * 4, [[[[1, 2, 3]]]] * 4, [[[[300]], []]] * 4, ["a.png"] * 4, [b""] * 4, [1.5] * 4, [[{}]] * 4)
                )
            case _:
                rows[f"column{row}"] = list(rows["image"])
    try:
        return workshop.parquet(rows, features)
    except (pa.ArrowException, ValueError, TypeError, OverflowError, RecursionError, AttributeError):
        return mutate_bytes(random, data)


def _open_parquet(shop: Workshop, folder: Path, data: bytes) -> Commands:
    (folder / "x.parquet").write_bytes(data)
    return _read(shop, folder, f"parquet:{folder}/x.parquet")


def _mutate_tar(random: Random, data: bytes) -> bytes:
    if random.random() < 0.35:
        return mutate_bytes(random, data)
    stored = workshop.members()
    for _ in range(random.choice((1, 2, 4))):
        at = random.randrange(len(stored))
        name, content = stored[at]
        match random.randrange(4):
            case 0:
                stem = random.choice(("", "a\0b", "x" * 300, "../x", "/etc/x", "ä\u2028", "\udcff", ".", "a b"))
                stored[at] = (f"{stem}.{random.choice(('png', 'cls', 'json', 'txt', '', 'x.y'))}", content)
            case 1:
                stored[at] = (name, mutate_bytes(random, content))
            case 2:
                label = random.choice(
                    (b"[" * 100_000, b'{"label": ' * 2000, b'{"label": [1]}', b"\xff\0", b"9" * 5000, b"", b"null", b"-1")
                )
                stored[at] = (f"{name[0]}.{random.choice(('cls', 'json', 'txt'))}", label)
            case _:
                stored.insert(at, random.choice(stored))
    try:
        return workshop.archive(stored)
    except (ValueError, UnicodeError):
        return mutate_bytes(random, data)


def _open_tar(shop: Workshop, folder: Path, data: bytes) -> Commands:
    (folder / "x.tar").write_bytes(data)
    return _read(shop, folder, f"tar:{folder}/x.tar")


def _mutate_records(random: Random, data: bytes) -> bytes:
    if random.random() < 0.25:
        return mutate_bytes(random, data)
    stored = workshop.records()
    lengths: list[int | None] = [None] * len(stored)
    at = random.randrange(len(stored))
    match random.randrange(4):
        case 0:
            lengths[at] = random.choice((0, 1, len(stored[at]) + 1, 10**6, 2**33, 2**40, 2**62, 2**63, 2**64 - 1))
        case 1:
            stored[at] = mutate_bytes(random, stored[at])
        case 2:
            stored[at] = random.choice((b"", b"\xff" * 40, b"\n\x00", stored[at][:-1], stored[at] * 2))
        case _:
            stored = stored[:at] if random.random() < 0.5 else stored * 2
            lengths = [None] * len(stored)
    return b"".join(framed(record, length) for record, length in zip(stored, lengths, strict=True))


def _open_records(shop: Workshop, folder: Path, data: bytes) -> Commands:
    shutil.copytree(shop.folder / "tfds", folder / "tfds")
    (folder / "tfds" / "small" / "1.0.0" / "small-train.tfrecord-00000-of-00001").write_bytes(data)
    return _read(shop, folder, "tfds:small/train", f'data_dir = "{folder}/tfds"')


def _mutate_image(random: Random, data: bytes) -> bytes:
    changed = mutate_bytes(random, data)
    return with_checksums(changed) if changed.startswith(b"\x89PNG") and random.random() < 0.7 else changed


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks all have the right checksum, so that its decoder looks at them."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        out += data[at:end] + zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(out + data[at:])


def _open_image(shop: Workshop, folder: Path, data: bytes) -> Commands:
    (folder / "images").mkdir()
    suffix = "npy" if data.startswith(b"\x93NUMPY") else "png"
    (folder / "images" / f"x.{suffix}").write_bytes(data)
    return _read(shop, folder, f"folder:{folder}/images", *(["bands = [0, 1, 2]"] if len(data) % 4 == 0 else []))


def _open_window(shop: Workshop, folder: Path, data: bytes) -> Commands:
    (folder / "images").mkdir()
    (folder / "images" / "x.png").write_bytes(data)
    return _read(shop, folder, f"folder:{folder}/images", "window = { size = 8, stride = 4 }")


def _lists(shop: Workshop) -> list[bytes]:
    names = sorted(path.name for path in (shop.folder / "pictures" / "a").iterdir())
    return [
        "".join(f"{shop.folder}/pictures/a/{name}\tcat\n" for name in names).encode(),
        f"# pictures\n{shop.folder}/pictures/a/0.png,dog\n\nmissing.png\n".encode(),
    ]


def _mutate_list(random: Random, data: bytes) -> bytes:
    if random.random() < 0.5:
        return mutate_text(random, data)
    lines = data.split(b"\n")
    path = random.choice([text for text in NASTY if isinstance(text, str)]).encode("utf-8", "surrogatepass")
    lines.insert(random.randrange(len(lines) + 1), path + random.choice((b"", b"\t", b",", b"\tx", b".png,x", b".png\ty\tz")))
    return b"\n".join(lines)


def _open_list(shop: Workshop, folder: Path, data: bytes) -> Commands:
    (folder / "list.txt").write_bytes(data)
    return _read(shop, folder, f"list:{folder}/list.txt")


def _open_labels(shop: Workshop, folder: Path, data: bytes) -> Commands:
    (folder / "labels.txt").write_bytes(data)
    (folder / "x.parquet").write_bytes(workshop.parquet(*workshop.table()))
    return _read(shop, folder, f"parquet:{folder}/x.parquet", f'labels = "{folder}/labels.txt"')


DOORS: dict[str, Door] = {
    "parquet": Door(lambda shop: [workshop.parquet(*workshop.table())], _mutate_parquet, _open_parquet, share=3),
    "tar": Door(lambda shop: [workshop.archive(workshop.members())], _mutate_tar, _open_tar, share=3),
    "tfrecord": Door(lambda shop: [b"".join(map(framed, workshop.records()))], _mutate_records, _open_records, alone=True),
    "image": Door(lambda shop: list(workshop.pictures().values()), _mutate_image, _open_image, share=4),
    "window": Door(lambda shop: [workshop.pictures()["png"]], _mutate_image, _open_window, share=1),
    "list": Door(_lists, _mutate_list, _open_list),
    "labels": Door(lambda shop: [b"cat\ndog\n"], mutate_text, _open_labels, share=1),
}
