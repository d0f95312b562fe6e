"""The command line: `python -m jobs`, installed as `convscope`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

# Nothing heavy is imported up here: `--help` answers at once.

_DESCRIPTION = "See what each channel of a convolutional network learned: a data set streams through, the strongest patches stay."
_EXITS = "Exit status: 0 done; 1 fault; 2 wrong spec or arguments; 3 too many bad inputs; 75 try again later."


def parser() -> argparse.ArgumentParser:
    """Every command and option; docs/commands.md tells of each."""
    root = argparse.ArgumentParser(prog="convscope", description=_DESCRIPTION, epilog=_EXITS)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="run a job", description="Run a job: SPEC's stages, in order, into OUT/name.", epilog=_EXITS
    )
    _add_spec(run)
    run.add_argument(
        "--out",
        default="out",
        metavar="DIR",
        help="folder for results, or an address such as s3://bucket/results (default: %(default)s)",
    )
    run.add_argument(
        "--stage", action="append", default=[], metavar="NAME", help="run this stage alone, even if it is done; may be repeated"
    )

    layers = commands.add_parser(
        "layers", help="list a network's layers", description="Every layer that can be looked at, in forward order."
    )
    _add_spec(layers)
    layers.add_argument("--fast", action="store_true", help="leave out the receptive fields, which take some probe images")
    layers.add_argument("--tensorboard", metavar="DIR", help="write the graph, for TensorBoard's Graphs page")

    check = commands.add_parser(
        "check",
        help="validate a spec without running",
        description="Open everything that a spec names, and say what a run would do.",
    )
    _add_spec(check)
    check.add_argument(
        "--out",
        default="out",
        metavar="DIR",
        help="folder for results, or an address such as s3://bucket/results (default: %(default)s)",
    )

    show = commands.add_parser("show", help="what a job's folder holds", description="What a finished or running job holds.")
    show.add_argument("folder", metavar="DIR", help="a job's folder: OUT/name")

    params = commands.add_parser(
        "params",
        help="turn an old params.py into TOML",
        description="Read the parameters of an old class visualisation, without running them, and print the table of a spec.",
    )
    params.add_argument("old", metavar="OLD", help="the old params.py")

    train = commands.add_parser(
        "train", help="train the example network", description="Train the small network that the examples look into."
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
    train.add_argument("--epochs", type=_positive, default=24, metavar="N", help="passes over the data (default: %(default)s)")
    train.add_argument("--batch", type=_positive, default=128, metavar="N", help="images a step (default: %(default)s)")
    return root


def _add_spec(command: argparse.ArgumentParser) -> None:
    command.add_argument("spec", metavar="SPEC", help="a job's TOML file, or the name of a shipped one, such as demo")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="change a value of the spec; may be repeated",
    )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns: the exit status."""
    options = parser().parse_args(arguments)
    from jobs import commands
    from pipeline.errors import ConvscopeError, Interrupted

    # A scheduler's SIGTERM ends a run as Ctrl-C does: by an exception that lets go of locks and half-written files.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        commands.COMMANDS[options.command](options)
        sys.stdout.flush()
    except ConvscopeError as error:
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        stopped = Interrupted("nothing that was finished is lost. Run the same command again.")
        return _complain(str(stopped), stopped.exit_code)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except MemoryError:
        return _complain("Fault: out of memory. Lower data.batch, name fewer layers, or give the job more memory.", 1)
    return 0


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _complain(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status
