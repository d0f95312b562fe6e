"""WebDataset archives: samples, labels, order, packed ones, bad images, archives cut short."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import cv2
import pytest

from pipeline.errors import MissingInput, UnusableData
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec

FIT = Fit(8, 8)


@pytest.fixture
def png(scene: Any) -> Any:
    """A function: a picture as PNG bytes."""
    return lambda seed=0, height=12, width=16: cv2.imencode(".png", scene(height, width, seed)[..., ::-1])[1].tobytes()


@pytest.fixture
def archive(tmp_path: Path) -> Any:
    """A function: write [(name, bytes)] to tmp_path / NAME."""

    def write(name: Any, members: Any, form: Any = tarfile.PAX_FORMAT) -> Any:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(file, "w:gz" if name.endswith("gz") else "w", format=form) as opened:
            for path, data in members:
                member = tarfile.TarInfo(path)
                member.size = len(data)
                opened.addfile(member, io.BytesIO(data))
        return file

    return write


@pytest.fixture
def archives(tmp_path: Path) -> Any:
    """A function: the source of all files that match."""
    return lambda pattern="*.tar", **spec: open_source(DataSpec(source=f"tar:{tmp_path / pattern}", **spec), FIT)


def test_a_sample_is_what_shares_its_path_up_to_the_first_dot(
    archive: Any, archives: Any, png: Any, listed: Any, scene: Any
) -> None:
    archive("b.tar", [("9.png", png(9)), ("9.cls", b"3\n")])
    archive(
        "a.tar",
        [
            ("./x/1.cls", b"cat"),
            ("./x/1.png", png(1)),
            ("x/2.PNG", png(2)),
            ("x/2.json", b'{"label": "dog", "n": 1}'),
            ("y/1.seg.png", png(8)),
            ("y/1.png", png(3)),
            ("y/1.txt", "a café\n".encode()),
            ("y/._1.png", b"what a Mac adds"),
            ("z.json", b'{"cls": 7}'),
            ("z.img.png", png(4)),
            ("lonely.cls", b"1"),
        ],
    )
    elements = listed(archives())
    assert [e[1] for e in elements] == ["a.tar/x/1", "a.tar/x/2", "a.tar/y/1", "a.tar/z", "b.tar/9"]
    assert [e[2] for e in elements] == ["cat", "dog", "a café", "7", "3"]
    assert [e[3] for e in elements] == [FIT.apply(scene(seed=seed)).tobytes() for seed in (1, 2, 3, 4, 9)]
    assert archives().labels == ["3", "7", "a café", "cat", "dog"]


def test_image_and_label_may_be_chosen(archive: Any, archives: Any, png: Any, listed: Any, scene: Any) -> None:
    archive("a.tar", [("1.png", png(1)), ("1.seg.png", png(2)), ("1.cls", b"5"), ("1.json", b'{"breed": "beagle"}')])
    assert listed(archives(image="seg.png", label="breed"))[0][2:4] == ("beagle", FIT.apply(scene(seed=2)).tobytes())
    assert listed(archives(label="cls"))[0][2] == "5" and archives(label="cls").labels is None


def test_several_images_under_one_name_are_refused(archive: Any, archives: Any, png: Any) -> None:
    archive("a.tar", [("photo 1.0.png", png(1)), ("photo 1.1.png", png(2))])
    with pytest.raises(UnusableData, match=r"a.tar: sample 'photo 1' has several images: 0.png, 1.png. Set data.image"):
        archives()


@pytest.mark.parametrize("ending", ["tar", "tgz"])
def test_ids_do_not_depend_on_shards_starts_or_packing(
    archive: Any, archives: Any, png: Any, listed: Any, monkeypatch: pytest.MonkeyPatch, ending: Any
) -> None:
    from pipeline.sources import tar

    monkeypatch.setattr(tar, "_RANGE_BYTES", 3000)
    for name in ("1", "2", "3"):
        members = [(f"{seed}.{kind}", data) for seed in range(5) for kind, data in (("png", png(seed)), ("cls", b"%d" % seed))]
        archive(f"{name}.{ending}", members)
    source = archives(f"?.{ending}", limit=14)
    whole = listed(source)
    assert len(whole) == len(source) == 14 and [e[2] for e in whole] == ["0", "1", "2", "3", "4"] * 2 + ["0", "1", "2", "3"]
    assert [e[0] for e in whole] == list(range(14)) and len({e[1] for e in whole}) == 14
    for count in (1, 3, 9):
        shards = [listed(source, Shard(index, count)) for index in range(count)]
        assert [e for shard in shards for e in shard] == whole
        for index in {0, count // 2, count - 1}:
            elements = shards[index]
            for start in (1, len(elements), len(elements) + 2):
                assert listed(source, Shard(index, count), start) == elements[start:]
    fetched = list(source.fetch([13, 4, 5, 5, 0]))
    assert [(example, image.key, image.label) for example, image in fetched] == [
        (example, whole[example][1], whole[example][2]) for example in (0, 4, 5, 13)
    ]
    assert all(FIT.apply(image.pixels).tobytes() == whole[example][3] for example, image in fetched)


def test_a_few_of_several_archives_are_fetched_each_from_its_own(archive: Any, archives: Any, png: Any, scene: Any) -> None:
    for number in range(2):
        archive(f"{number}.tar", [(f"{seed}.png", png(10 * number + seed)) for seed in range(4)])
    fetched = list(archives().fetch([0, 6, 7]))
    assert [image.key for _, image in fetched] == ["0.tar/0", "1.tar/2", "1.tar/3"]
    assert [(image.pixels == scene(seed=seed)).all() for (_, image), seed in zip(fetched, (0, 12, 13), strict=True)] == [True] * 3


def test_shards_that_braces_name_are_one_data_set(archive: Any, archives: Any, png: Any, listed: Any) -> None:
    for number in range(3):
        archive(f"shard-{number:03}.tar", [(f"{number}.png", png(number))])
    assert listed(archives("shard-{000..002}.tar")) == listed(archives("shard-*.tar"))
    assert [key for _, key, *_ in listed(archives("shard-{001..002}.tar"))] == ["shard-001.tar/1", "shard-002.tar/2"]
    with pytest.raises(MissingInput, match=r"shard-003\.tar"):
        archives("shard-{000..003}.tar")


def test_members_of_a_sample_need_not_be_neighbours(archive: Any, archives: Any, png: Any, listed: Any) -> None:
    archive("a.tar", [("1.cls", b"1"), ("2.png", png(2)), ("1.png", png(1)), ("2.cls", b"2")])
    assert [(e[1], e[2]) for e in listed(archives())] == [("a.tar/1", "1"), ("a.tar/2", "2")]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_foreign_names_are_read_in_every_form_of_header(
    archive: Any, archives: Any, png: Any, listed: Any, form: Any
) -> None:
    name = f"{'long' * 20}/{'name' * 20}" if form == tarfile.USTAR_FORMAT else f"{'long' * 40}/日本語"
    archive("a.tar", [(f"{name}.png", png(1))], form)
    assert [(e[1], e[4]) for e in listed(archives())] == [(f"a.tar/{name}", "")]


def test_bad_images_keep_their_example_number_and_reason(archive: Any, archives: Any, png: Any, listed: Any) -> None:
    archive("a.tar", [("0.png", png(0)), ("1.jpg", b"text"), ("2.png", b""), ("3.png", png(3)[:90]), ("4.png", png(4))])
    reasons = [e[4] for e in listed(archives())]
    assert reasons[0] == reasons[4] == "" and "not a whole image" in reasons[1]
    assert "empty" in reasons[2] and "truncated" in reasons[3]
    with pytest.raises(UnusableData, match=r"'a.tar/1' of tar:.*not a whole image"):
        list(archives().fetch([0, 1]))


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9])
def test_an_archive_cut_short_stops_before_work_starts(archive: Any, archives: Any, png: Any, keep: Any, ending: Any) -> None:
    archive(f"a.{ending}", [("0.png", png(0))])
    cut = archive(f"b.{ending}", [(f"{seed}.png", png(seed)) for seed in range(40)])
    data = cut.read_bytes()
    cut.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UnusableData, match=rf"{cut} is cut short, or no tar archive: .*Fetch it") as caught:
        archives(f"*.{ending}")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_an_archive_cut_between_two_members_is_cut_short_too(archive: Any, archives: Any, png: Any) -> None:
    cut = archive("a.tar", [(f"{seed}.png", png(seed)) for seed in range(3)])
    with tarfile.open(cut) as opened:
        end = opened.getmembers()[2].offset
    cut.write_bytes(cut.read_bytes()[:end])
    with pytest.raises(UnusableData, match="its end is missing"):
        archives()


def test_an_archive_damaged_in_a_header_is_refused_and_not_half_read(archive: Any, archives: Any, png: Any) -> None:
    file = archive("a.tar", [(f"{seed}.png", png(seed)) for seed in range(3)])
    with tarfile.open(file) as opened:
        place = opened.getmembers()[1].offset
    data = bytearray(file.read_bytes())
    data[place : place + 100] = b"x" * 100
    file.write_bytes(data)
    with pytest.raises(UnusableData, match="cut short, or no tar archive"):
        archives()


def test_what_is_no_archive_or_holds_no_image_is_named(archive: Any, archives: Any, tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_bytes(b"this is text " * 100)
    with pytest.raises(UnusableData, match="text.tar is cut short, or no tar archive"):
        archives()
    (tmp_path / "text.tar.gz").write_bytes(gzip.compress(b"this is text " * 100))
    with pytest.raises(UnusableData, match="text.tar.gz is cut short, or no tar archive"):
        archives("text.tar.gz")
    archive("labels.tar", [("1.cls", b"1"), ("1.txt", b"x")])
    with pytest.raises(UnusableData, match="labels.tar holds no images"):
        archives("labels.tar")
    with pytest.raises(MissingInput, match="no file matches data.source 'tar:.*none"):
        archives("none*.tar")


def test_an_archive_that_shrank_since_it_was_opened_is_named(archive: Any, archives: Any, png: Any) -> None:
    file = archive("a.tar", [(f"{seed}.png", png(seed)) for seed in range(3)])
    source = archives()
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(UnusableData, match="a.tar is shorter than it was"):
        list(source.fetch([2]))


def test_numbered_labels_take_their_names_from_a_file_and_one_too_short_is_refused(
    archive: Any, archives: Any, png: Any, listed: Any, tmp_path: Path
) -> None:
    archive("a.tar", [("1.png", png(1)), ("1.cls", b"1\n"), ("2.png", png(2)), ("3.png", png(3)), ("3.cls", b"0")])
    names = tmp_path / "names.txt"
    names.write_text("ape\nbee\n")
    source = archives(labels=str(names))
    assert [e[2] for e in listed(source)] == ["bee", "", "ape"] and source.labels == ["ape", "bee"]
    names.write_text("ape\n")
    with pytest.raises(UnusableData, match=r"names 1 classes, 0 to 0, but a.tar/1 has label 1"):
        archives(labels=str(names))
    names.write_text("ape\nbee\n")
    archive("a.tar", [("1.png", png(1)), ("1.cls", b"cat")])
    with pytest.raises(UnusableData, match=r"a.tar/1 has label 'cat'. Leave data.labels out"):
        archives(labels=str(names))


def test_the_digest_survives_a_copy_and_changes_with_names_sizes_and_labels(
    archive: Any, archives: Any, png: Any, tmp_path: Path
) -> None:
    archive("one/a.tar", [("1.png", png(1))])
    archive("two/a.tar", [("1.png", png(1))])
    archive("two/b.tar", [("2.png", png(1))])
    names = tmp_path / "names.txt"
    names.write_text("ape\n")
    one = archives("one/*.tar").digest()
    assert archives("two/a.tar").digest() == one
    assert len({one, archives("two/*.tar").digest(), archives("one/*.tar", labels=str(names)).digest()}) == 3
