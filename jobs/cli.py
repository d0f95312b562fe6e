"""The command line: `python -m jobs`, installed as `convscope`."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jobs.argument_types import port, positive, seconds, shard

if TYPE_CHECKING:
    from pipeline.errors import ConvscopeError

# Nothing heavy is imported up here: `--help` answers at once.

_DESCRIPTION = "Show what each channel of a vision network has learned: run a data set through it and keep the strongest patches."
_EXITS = "Exit status: 0 done; 1 fault; 2 wrong spec or arguments; 3 too many bad inputs; 75 try again later."


def parser() -> argparse.ArgumentParser:
    """Every command and option; docs/commands.md describes each."""
    root = argparse.ArgumentParser(prog="convscope", description=_DESCRIPTION, epilog=_EXITS)
    root.add_argument("--version", action=_Version, help="print the versions of convscope, TensorFlow and Keras")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run a job",
        description="Run a job, into OUT/name: the stages of a spec, or the default ones of a network and images.",
        epilog=_EXITS,
    )
    _add_spec(run)
    _add_out(run)
    alone = run.add_mutually_exclusive_group()
    alone.add_argument(
        "--stage", action="append", default=[], metavar="NAME", help="run only this stage, even if it is done; may be repeated"
    )
    alone.add_argument("--shard", type=shard, metavar="I/N", help="scan only the I-th of N parts of the data; merge joins them")
    run.add_argument(
        "--engine",
        default="local",
        metavar="ENGINE",
        help="who scans: local, this process, or ray, the workers of a Ray cluster (default: %(default)s)",
    )
    run.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="how many Ray workers (default: one for each GPU, else one for each machine)",
    )
    run.add_argument("--update", action="store_true", help="if the data set only grew, scan only the new images")
    run.add_argument("--dry-run", action="store_true", help="do what check does, and run nothing")
    run.add_argument(
        "--anew", action="store_true", help="discard saved state and finished stages of earlier runs, and start over"
    )
    _add_manner(run)

    merge = commands.add_parser(
        "merge",
        help="join the parts of --shard, and finish the job",
        description="Join the parts that run --shard left in a job's folder, and run the job's remaining stages.",
        epilog=_EXITS,
    )
    _paths(merge.add_argument("folder", metavar="DIR", help="the job's folder: OUT/name"), "dirs")
    _add_manner(merge)

    layers = commands.add_parser(
        "layers", help="list a network's layers", description="List every layer that a spec can name, in forward order."
    )
    _add_spec(layers, images=False)
    layers.add_argument("--fast", action="store_true", help="leave out the receptive fields, which need some probe images")
    _add_no_cache(layers)
    layers.add_argument("--tensorboard", metavar="DIR", help="write the graph, for TensorBoard's Graphs page")

    fields = commands.add_parser(
        "fields",
        help="measure and draw receptive fields",
        description="Measure the receptive field of every layer of SPEC, and draw them into OUT/name/mosaics/fields.",
        epilog=_EXITS,
    )
    _add_spec(fields)
    _add_out(fields)
    _add_no_cache(fields)

    check = commands.add_parser(
        "check",
        help="validate a spec without running",
        description="Open the network and the data of a spec, and say what a run would do.",
    )
    _add_spec(check)
    _add_out(check)

    show = commands.add_parser(
        "show", help="summarise a job's folder", description="Summarise the folder of a finished or running job."
    )
    _paths(show.add_argument("folder", metavar="DIR", help="a job's folder: OUT/name"), "dirs")

    picture = commands.add_parser(
        "picture",
        help="draw one explanation",
        description="Draw the attribution map of one image, from the stored map if there is one, and print the picture's path.",
    )
    _paths(picture.add_argument("folder", metavar="DIR", help="a job's folder: OUT/name"), "dirs")
    picture.add_argument("--image", required=True, metavar="KEY", help="the image's key, its number in the data set, or a file")
    picture.add_argument("--method", metavar="METHOD", help="as in gradcam.methods (default: the job's first)")
    picture.add_argument("--layer", metavar="LAYER", help="the layer whose maps are used (default: the job's first)")
    picture.add_argument(
        "--target", metavar="TARGET", help="a class by number or name, or a target of the index (default: the first)"
    )

    viewer = commands.add_parser("open", help="open a job's web page", description="Open the web page of a job in a browser.")
    _paths(viewer.add_argument("folder", metavar="DIR", help="a job's folder: OUT/name"), "dirs")
    viewer.add_argument(
        "--serve",
        type=port,
        metavar="PORT",
        help="serve it on this port of this machine, for a browser that cannot read its disk",
    )

    search = commands.add_parser(
        "search",
        help="find channels by concept, label or file",
        description="List the channels that have the words in a concept, in the label they prefer, or in a winner's file.",
    )
    _paths(search.add_argument("folder", metavar="DIR", help="a job's folder: OUT/name"), "dirs")
    search.add_argument("words", metavar="WORDS", help='such as "green stripes"; case does not matter')
    search.add_argument(
        "--text",
        action="store_true",
        help="order all channels by how like the words their winners are, by the job's encoder",
    )
    search.add_argument("--most", type=positive, default=40, metavar="N", help="lines to print (default: %(default)s)")

    report = commands.add_parser(
        "report",
        help="rebuild a job's web page",
        description="Rebuild report/index.html from a job's folder. Needs neither the network nor the data.",
    )
    _paths(report.add_argument("folder", metavar="DIR", help="a job's folder: OUT/name"), "dirs")

    compare = commands.add_parser(
        "compare", help="compare two jobs", description="Make a web page that shows two jobs side by side."
    )
    _paths(compare.add_argument("first", metavar="A", help="a job's folder"), "dirs")
    _paths(
        compare.add_argument("second", metavar="B", help="another job's folder, with layers of the same names"),
        "dirs",
    )
    compare.add_argument(
        "--match", action="store_true", help="match channels over all layers: those of which each is the other's nearest"
    )
    compare.add_argument("--out", default="comparison", metavar="DIR", help="folder for the page (default: %(default)s)")

    init = commands.add_parser(
        "init",
        help="write a spec to go on from",
        description="Write a commented spec for a network and images into the working directory.",
    )
    init.add_argument(
        "network", metavar="NETWORK", nargs="?", help="such as keras:VGG16 or net.onnx (default: keras:MobileNetV2)"
    )
    _add_images(init)
    init.add_argument("--file", metavar="FILE", help="the file to write (default: NETWORK-IMAGES.toml)")

    about = "Print the JSON schema of a spec, for editors."
    commands.add_parser("schema", help="print the JSON schema of a spec", description=about)

    explain = commands.add_parser(
        "help", help="explain a key of the spec", description="Explain a key or a table of the spec, or a command."
    )
    explain.add_argument("key", metavar="KEY", nargs="?", help="such as activations.crop")

    completion = commands.add_parser(
        "completion",
        help="print completions for a shell",
        description='Print what a shell completes: eval "$(convscope completion bash)".',
    )
    completion.add_argument("shell", choices=["bash", "zsh"], help="which shell")

    params = commands.add_parser(
        "params",
        help="convert an old params.py to TOML",
        description="Read the params.py of an old class visualisation, without running it, and print the table of a spec.",
    )
    _paths(params.add_argument("old", metavar="OLD", help="the old params.py"))

    train = commands.add_parser(
        "train", help="train the example network", description="Train the small network of the specs demo and cifar10."
    )
    train.add_argument("network", choices=["cifar10"], help="which network")
    train.add_argument(
        "--out",
        default="build/cifar10",
        metavar="DIR",
        help="folder for the network, its log and the state to resume from (default: %(default)s)",
    )
    train.add_argument(
        "--data-dir", metavar="DIR", help="prepared TensorFlow Datasets (default: where they keep them; downloaded if missing)"
    )
    train.add_argument("--epochs", type=positive, default=24, metavar="N", help="passes over the data (default: %(default)s)")
    train.add_argument("--batch", type=positive, default=128, metavar="N", help="images a step (default: %(default)s)")
    return root


def _paths(action: argparse.Action, kind: str = "files") -> None:
    """Have shells complete an argument with files, or with `dirs`, as `shtab` has it."""
    action.complete = {"bash": f"_shtab_compgen_{kind}", "zsh": "_files" if kind == "files" else "_files -/"}  # type: ignore[attr-defined]


def _specs() -> dict[str, Any]:
    """The shell completion of a spec: the names of the shipped ones, and files."""
    names = " ".join(sorted(path.stem for path in Path(__file__).parent.glob("*.toml")))
    function = "_convscope_specs"
    bash = f'compgen -W \'{names}\' -- "$1"; _shtab_compgen_files "$1"'
    zsh = f"_alternative 'specs:shipped spec:({names})' 'files:file:_files'"
    functions = {shell: f"{function}() {{ {body}; }}" for shell, body in (("bash", bash), ("zsh", zsh))}
    return {"bash": function, "zsh": function, "preamble": functions}


def _add_spec(command: argparse.ArgumentParser, images: bool = True) -> None:
    spec = command.add_argument(
        "spec",
        metavar="SPEC",
        help="a job's TOML file, the name of a shipped one, such as demo, or a network, such as keras:VGG16",
    )
    spec.complete = _specs()  # type: ignore[attr-defined]
    if images:
        _add_images(command)
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="change a value of the spec; may be repeated",
    )


def _add_images(command: argparse.ArgumentParser) -> None:
    _paths(
        command.add_argument(
            "images",
            metavar="IMAGES",
            nargs="?",
            help="for a network without a spec: a folder, or a source such as tfds:cifar10/test",
        )
    )
    command.add_argument(
        "--layers",
        action="append",
        default=[],
        metavar="NAME",
        help="look at this layer, or at those that a glob matches; may be repeated (default: as the spec, or one a stage)",
    )


def _add_out(command: argparse.ArgumentParser) -> None:
    _paths(
        command.add_argument(
            "--out",
            default="out",
            metavar="DIR",
            help="folder for results, or an address such as s3://bucket/results (default: %(default)s)",
        ),
        "dirs",
    )


def _add_manner(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--save-every",
        type=seconds,
        default=60,
        metavar="SECONDS",
        help="save the scan this often: a killed run loses no more than that (default: %(default)s)",
    )
    _add_no_cache(command)
    command.add_argument("--log-json", action="store_true", help="write the log as one JSON object a line")


def _add_no_cache(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--no-cache", action="store_true", help="solve receptive fields anew, even those that an earlier command has solved"
    )


class _Version(argparse.Action):
    """Prints the versions of what is installed, without importing any of it."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib import metadata

        def version(package: str) -> str:
            try:
                return metadata.version(package)
            except metadata.PackageNotFoundError:
                return "not installed"

        print(f"convscope {version('convscope')} (tensorflow {version('tensorflow')}, keras {version('keras')})")
        parser.exit()


def command_line() -> int:
    """Run the command of this process' arguments, as its only job. Returns: the exit status."""
    from jobs.quick_start import leave_out_of_keras
    from jobs.terminal import filter_libraries

    filter_libraries()
    leave_out_of_keras()
    try:
        return main()
    finally:
        gc.freeze()  # the process ends here: nothing is gained by looking for cycles once more, which takes TensorFlow a second


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: its arguments, or those of the process. Returns: the exit status."""
    root = parser()
    options = root.parse_args(arguments, argparse.Namespace(parser=root))
    from jobs import commands
    from pipeline import own_process
    from pipeline.errors import ConvscopeError, Fault, Interrupted

    own_process.is_ours = arguments is None

    # A scheduler's SIGTERM ends a run as Ctrl-C does: by an exception, which releases locks and removes unfinished files.
    signal.signal(signal.SIGTERM, _interrupt)
    # What Keras thinks of a stranger's description is no line of ours: layers that it cannot call are errors.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(keras|tensorflow|absl)\b")
    try:
        commands.COMMANDS[options.command](options)
        sys.stdout.flush()
    except ConvscopeError as error:
        return _complain(error, options)
    except KeyboardInterrupt:
        return _complain(Interrupted("finished work is saved. Run the same command again to resume."), options)
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        return _complain(Fault("out of memory. Lower data.batch, name fewer layers, or give the job more memory."), options)
    return 0


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python or TensorFlow, which need not be imported, ran out of memory."""
    return isinstance(error, MemoryError) or any(kind.__name__ == "ResourceExhaustedError" for kind in type(error).__mro__)


def _interrupt(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one must not stop the saving
    raise KeyboardInterrupt


def _complain(error: ConvscopeError, options: argparse.Namespace) -> int:
    if getattr(options, "log_json", False):
        from pipeline.progress import json_line

        print(json_line({"error": type(error).__name__, "message": str(error.args[0]), "exit": error.exit_code}), file=sys.stderr)
    else:
        from jobs.terminal import painted

        kind, colon, message = str(error).partition(":")
        print(painted(kind, "bold", "red", stream=sys.stderr) + colon + message, file=sys.stderr)
    return error.exit_code
