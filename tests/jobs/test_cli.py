"""The command line: what it imports, what it prints, and the exit status of everything that can go wrong."""

from __future__ import annotations

import json
import os
import signal
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from jobs import commands
from jobs.cli import parser
from jobs.specs import shipped_specs
from pipeline.errors import ConvscopeError, StoreFailed

HEAVY = ("tensorflow", "keras", "numpy", "pandas", "pyarrow", "pydantic", "cv2", "progressbar", "ray")


@pytest.fixture
def spec_file(write_spec: Any, tmp_path: Path) -> Any:
    """The spec file of the tiny network on the 20 pictures."""
    return write_spec(tmp_path / "tiny.toml")


def complaint(result: Any, status: Any) -> Any:
    """The one line on standard error that a failed command leaves."""
    actual, out, error = result
    assert actual == status, error
    assert out == "" and "Traceback" not in error
    return error.splitlines()[-1]


ASK_FOR_HELP = f"""
import sys
from jobs.cli import main
help_of_each = [[name, "--help"] for name in {list(commands.COMMANDS)}]
for arguments in (["--help"], ["--version"], *help_of_each, ["run"], ["run", "x", "--nonsense"]):
    try:
        main(arguments)
    except SystemExit as stop:
        print(arguments, stop.code, file=sys.stderr)
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


def test_help_and_wrong_arguments_import_nothing_that_takes_time(process: Any) -> None:
    child = process("-c", ASK_FOR_HELP)
    out, error = child.communicate(timeout=60)
    assert error.splitlines()[-1] == "[]"
    assert out.startswith("usage: convscope") and "Exit status: 0 done" in out
    assert "['--help'] 0" in error and "['run', 'x', '--nonsense'] 2" in error


def test_version_names_what_results_depend_on(command: Any) -> None:
    status, out, _ = command("--version")
    versions = (f"{name} {metadata.version(name)}" for name in ("convscope", "tensorflow", "keras"))
    assert status == 0 and out == "{} ({}, {})\n".format(*versions)


def test_help_names_every_command_and_each_command_has_one(command: Any) -> None:
    assert command("--help")[0] == 0
    out = command("--help")[1]
    for name in commands.COMMANDS:
        assert f"\n    {name} " in out or f"\n    {name}\n" in out
        status, help_text, _ = command(name, "--help")
        assert status == 0 and help_text.startswith(f"usage: convscope {name}")
    listed = {name for action in parser()._subparsers._group_actions for name in action.choices}
    assert listed == set(commands.COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["show"], ["run", "a", "b", "c"], ["train", "vgg"]])
def test_wrong_arguments_exit_2_and_show_the_usage(command: Any, arguments: Any) -> None:
    status, out, error = command(*arguments)
    assert status == 2 and out == "" and error.startswith("usage: convscope")


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_train_takes_whole_numbers_alone(command: Any, value: Any) -> None:
    status, _, error = command("train", "cifar10", "--epochs", value)
    assert status == 2 and "is not a whole number above 0" in error


# What each command prints.


def test_run_does_the_job_and_ends_with_where_to_look(command: Any, spec_file: Any, tmp_path: Path) -> None:
    status, out, error = command("run", spec_file, "--out", tmp_path / "out", "--set", "activations.top_k=2")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "tiny: finished, 20 examples, 3 layers"
    assert lines[-1] == f"  look at: {tmp_path}/out/tiny/mosaics/activations/shapes-crop.png" and os.path.isfile(
        lines[-1].split(": ")[1]
    )
    assert "tiny: scan" in error and "receptive fields of 3 layers" in error
    assert json.loads((tmp_path / "out" / "tiny" / "run.json").read_text())["spec"]["activations"]["top_k"] == 2
    status, out, error = command("run", spec_file, "--out", tmp_path / "out", "--set", "activations.top_k=2")
    assert status == 0 and "is finished: nothing to do" in error and out.splitlines() == lines


def test_show_summarises_a_folder(command: Any, finished: Any) -> None:
    status, out, _ = command("show", finished)
    assert status == 0
    assert out.startswith("tiny: finished, 20 examples, 3 layers\n  activations: 20 images at ")
    for what, count in (("pictures", 9), ("tables", 8), ("patches", 4)):
        assert f"  {what}: " in out and f": {count} files, " in out


def test_show_reports_missing_stages_bad_images_and_nan(command: Any, finished: Any, tmp_path: Path) -> None:
    receipt = json.loads((finished / "run.json").read_text())
    receipt["stages"]["activations"] |= {"skipped": 1234, "nans": {"edges": 5678}}
    (tmp_path / "run.json").write_text(json.dumps(receipt))
    out = command("show", tmp_path)[1]
    assert "1,234 images could not be read: index/skipped.parquet" in out and "edges: 5,678 values were NaN" in out
    receipt |= {"stages": {}, "state": "running"}
    (tmp_path / "run.json").write_text(json.dumps(receipt))
    assert command("show", tmp_path)[1] == "tiny: running, 20 examples, 3 layers\n  activations: not run yet\n"


def test_check_says_what_a_run_would_do_and_does_nothing(command: Any, spec_file: Any, tmp_path: Path) -> None:
    status, out, _ = command("check", spec_file, "--out", tmp_path / "out", "--set", "activations.channels=[0, 2]")
    assert status == 0
    assert out.splitlines() == [
        "tiny: 20 examples, crop to 16 x 16, batches of 8",
        "network: tiny, 3 layers, 6 channels",
        "preprocess: none (as asked)",
        "head: softmax (assumed: the network ends in 3 numbers straight from weights; "
        "for several labels an image, or a regression, set model.head)",
        "  edges: Conv2D, map 14 x 14, 2 channels",
        "  shapes: Conv2D, map 6 x 6, 2 channels",
        "  classes: Dense, map 1 x 1, 2 channels",
        "  of the network's 5 layers, 1 cannot be looked at; convscope layers SPEC says why",
        "stages: activations",
        f"writes: {tmp_path}/out/tiny/run.json, index/, crops/, mosaics/ (up to 18 patches)",
    ]
    assert not (tmp_path / "out").exists()


def test_a_shipped_spec_is_known_by_its_name_unless_a_file_has_it(
    command: Any, spec_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("layers", "demo", "--fast")[1].startswith("preprocess: ")
    spec_file.rename("demo")
    assert "edges" in command("layers", "demo", "--fast")[1]


def test_check_tells_the_names_of_the_classes(command: Any, spec_file: Any, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\nmole\n")
    status, out, _ = command("check", spec_file, "--set", f"model.labels={tmp_path / 'names.txt'}", "--out", tmp_path / "out")
    assert status == 0 and "classes: 3, cat to mole" in out


# What can go wrong.


def test_a_dry_run_is_a_check(command: Any, spec_file: Any, tmp_path: Path) -> None:
    checked = command("check", spec_file, "--out", tmp_path / "out")
    assert command("run", spec_file, "--dry-run", "--out", tmp_path / "out") == checked and checked[0] == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["run", "check"])
def test_a_file_of_class_names_of_the_wrong_length_stops_before_work_starts(
    command: Any, spec_file: Any, tmp_path: Path, name: Any
) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    result = command(name, spec_file, "--set", f"model.labels={tmp_path / 'names.txt'}", "--out", tmp_path / "out")
    message = complaint(result, 2)
    assert message.startswith("WrongSpec: model.labels = ") and "has 2 names, but tiny has 3 classes" in message
    assert not list((tmp_path / "out").rglob("*.p*"))


def test_check_reports_missing_class_names(command: Any, spec_file: Any, tmp_path: Path) -> None:
    result = command("check", spec_file, "--set", f"model.labels={tmp_path / 'none.txt'}", "--out", tmp_path / "out")
    assert "none.txt' cannot be read" in complaint(result, 2)


def test_check_tries_whether_the_results_can_be_written_and_leaves_nothing(command: Any, spec_file: Any, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    message = complaint(command("check", spec_file, "--out", tmp_path / "out"), 1)
    assert message.startswith(f"StoreFailed: {tmp_path}/out/tiny was not written: Not a directory.")
    before = sorted(tmp_path.rglob("*"))
    assert command("check", spec_file, "--out", tmp_path / "new" / "deep")[0] == 0 and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["run", "layers", "check"])
def test_an_unknown_spec_is_named_with_the_shipped_ones(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    message = complaint(command(name, "demos"), 2)
    assert message.startswith("MissingInput: there is no file or folder 'demos'. Name a spec or a network")
    assert message.endswith(f"for a network of Keras, keras:demos. Specs that come with convscope: {', '.join(shipped_specs())}.")
    assert "none.toml" in complaint(command(name, "none.toml"), 2)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.bach=8", "UnknownName: 'bach' is not a key of [data]"),
        ("stages=activation", "UnknownName: 'activation' is not a stage; nearest: activations"),
        ("model.layers=edge", "UnknownLayer: 'edge' is not in tiny; nearest: edges"),
        ("model.layers=conv*", "UnknownLayer: 'conv*' is not in tiny"),
        ("model.source=keras:VGG61", "UnknownName: 'VGG61' is not"),
        ("model.source=kears:VGG16", "UnknownName: 'kears:' is not a kind of model.source"),
        ("model.source=file:none.keras", "MissingInput: the model "),
        ("data.source=floder:x", "UnknownName: 'floder:' is not a kind of data.source"),
        ("data.source=folder:none", "MissingInput: the folder "),
        ("data.source=folder:.", "holds no images"),
        ("data.source=sample:photo", "UnknownName: 'photo' is not a sample; nearest: photos"),
        ("data.batch=0", "WrongSpec: data.batch = 0"),
        ("activations.channels=[9]", "WrongSpec: activations.channels names channel 9, but edges has 4"),
        ("nonsense", "WrongSpec: --set 'nonsense' is not of the form"),
    ],
)
def test_a_wrong_spec_exits_2_before_any_work(
    command: Any, spec_file: Any, tmp_path: Path, tree_of: Any, monkeypatch: pytest.MonkeyPatch, override: Any, words: Any
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for name in ("check", "run"):
        message = complaint(command(name, spec_file, "--set", override, "--out", tmp_path / "out"), 2)
        assert words in message and message.endswith((".", "SPEC"))
    assert set(tree_of(tmp_path / "out")) <= {"tiny/.lock"}


def test_a_stage_that_the_spec_does_not_have_exits_2(command: Any, spec_file: Any, tmp_path: Path) -> None:
    message = complaint(command("run", spec_file, "--stage", "dreams", "--out", tmp_path / "out"), 2)
    assert "'dreams' is not a stage of this spec" in message


def test_too_many_bad_images_exit_3(command: Any, spec_file: Any, write_pictures: Any, tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", count=3)
    (images / "cat" / "torn.png").write_bytes(b"torn")
    message = complaint(command("run", spec_file, "--set", f"data.source=folder:{images}", "--out", tmp_path / "out"), 3)
    assert message.startswith("TooManyBad: 1 of 4 images cannot be read")


def test_a_result_that_cannot_be_written_exits_1(command: Any, spec_file: Any, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    assert complaint(command("run", spec_file, "--out", tmp_path / "out"), 1).startswith("StoreFailed: ")


def test_a_folder_that_holds_no_job_exits_2(command: Any, tmp_path: Path) -> None:
    assert "holds no job" in complaint(command("show", tmp_path), 2)


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [
        (KeyboardInterrupt(), 75, "Interrupted: finished work is saved"),
        (MemoryError(), 1, "Fault: out of memory. Lower data.batch"),
        (StoreFailed("no."), 1, "StoreFailed: no."),
    ],
)
def test_what_stops_a_command_is_one_line_and_its_status(
    command: Any, monkeypatch: pytest.MonkeyPatch, raised: Any, status: Any, words: Any
) -> None:
    def stop(options: Any) -> None:
        raise raised

    monkeypatch.setitem(commands.COMMANDS, "show", stop)
    assert complaint(command("show", "x"), status).startswith(words)


def test_every_error_has_the_exit_status_that_its_docstring_draws() -> None:
    from pipeline import errors

    drawn = [line.split() for line in errors.__doc__.splitlines() if "--" in line]
    statuses = {words[words.index(next(w for w in words if w.endswith("--"))) + 1]: words for words in drawn}
    classes = {name: one for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, ConvscopeError)}
    assert set(statuses) == set(classes) - {"ConvscopeError"}
    for name, words in statuses.items():
        assert str(classes[name].exit_code) in words[:5], name


def test_an_error_of_our_own_making_is_not_hidden(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(options: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(commands.COMMANDS, "show", stop)
    with pytest.raises(ZeroDivisionError):
        command("show", "x")


# As a process of its own.


def test_a_process_exits_with_the_status_and_one_line_alone(process: Any, spec_file: Any, tmp_path: Path) -> None:
    child = process("-m", "jobs", "check", spec_file, "--set", "model.layers=edge", cwd=tmp_path)
    out, error = child.communicate(timeout=60)
    assert child.returncode == 2 and out == ""
    assert error.count("\n") == 1 and error.startswith("UnknownLayer: ")


WAIT_TWICE = """
import signal, sys, time
from jobs import cli, commands

def wait(options):
    try:
        print("on", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        print("saving", flush=True)
        time.sleep(1)
        print("saved", flush=True)
        raise

commands.COMMANDS["show"] = wait
sys.exit(cli.main(["show", "x"]))
"""


def test_a_second_signal_of_a_scheduler_does_not_stop_the_saving(process: Any) -> None:
    child = process("-c", WAIT_TWICE)
    for line in ("on\n", "saving\n"):
        assert child.stdout.readline() == line
        child.send_signal(signal.SIGTERM)
    out, error = child.communicate(timeout=60)
    assert child.returncode == 75 and out == "saved\n" and error.startswith("Interrupted: ")


WAIT = """
import sys, time
from jobs import cli, commands

def wait(options):
    print("on", flush=True)
    time.sleep(600)

commands.COMMANDS["show"] = wait
sys.exit(cli.main(["show", "x"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_with_75_and_one_line(process: Any, number: Any) -> None:
    child = process("-c", WAIT)
    assert child.stdout.readline() == "on\n"
    child.send_signal(number)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 75 and error.startswith("Interrupted: ") and error.count("\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error(process: Any, finished: Any) -> None:
    child = process("-m", "jobs", "show", finished)
    child.stdout.close()
    error = child.stderr.read()
    assert (child.wait(timeout=60), error) == (0, "")


def test_report_makes_the_page_of_a_job_from_an_older_version(command: Any, copied: Any) -> None:
    receipt = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps(receipt | {"format": 0}))
    status, out, _ = command("report", copied)
    assert status == 0 and out.startswith(f"open {copied / 'report' / 'index.html'}")
    assert (copied / "report" / "index.html").exists()
    status, _, error = command("report", copied.parent / "nowhere")
    assert status == 2 and "holds no job" in error and not (copied.parent / "nowhere").exists()


PAGES = f"""
import sys
from jobs.cli import main
assert main(["report", sys.argv[1]]) == 0
assert main(["compare", sys.argv[1], sys.argv[1], "--out", sys.argv[1] + "/comparison"]) == 0
print([name for name in {HEAVY} if name in sys.modules and name in ("tensorflow", "keras", "ray")], file=sys.stderr)
"""


def test_pages_are_made_without_tensorflow(process: Any, copied: Any) -> None:
    out, error = process("-c", PAGES, copied).communicate(timeout=120)
    assert error.splitlines()[-1] == "[]", error
    assert "comparison/index.html" in out
