"""Files that crash or hang their reader: each trial stands in a process of its own, where TensorFlow has not started."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parent / "graphs"))

from frozen_graphs import convolve, freeze_v1, freeze_v2, plain, weights

_OUTCOMES = [
    ("os.kill(os.getpid(), signal.SIGSEGV)", {}, "net.pb makes its reader crash (SIGSEGV)"),
    ("os.abort()", {}, "net.pb makes its reader crash (SIGABRT)"),
    ("bytearray(2**40)", {}, "takes more than 8 GiB of memory"),
    ("time.sleep(1000)", {"seconds": 1.0}, "was not opened within 1 seconds"),
    ("raise_(ValueError())", {}, "fine"),
    ("raise_(UnusableModel('x'))", {}, "fine"),
    ("print('heard', flush=True)", {}, "fine"),
]
_TRIALS = """
import json, os, signal, sys, time
from pipeline.errors import ConvscopeError, UnusableModel
from pipeline.models.trial import try_in_child

def raise_(error):
    raise error

for work, bounds in json.loads(sys.argv[1]):
    began = time.monotonic()
    try:
        try_in_child(lambda: eval(work), "net.pb", **bounds)
        said = "fine"
    except ConvscopeError as error:
        said = str(error)
    print(json.dumps([said, time.monotonic() - began]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(program: Any) -> dict[str, tuple[str, float]]:
    """{work: what is said of it, and how long it took}: each tried in a child of its own, of one process."""
    works = json.dumps([(work, bounds) for work, bounds, _ in _OUTCOMES])
    done = program(_TRIALS, works)
    assert done.status == 0 and "heard" not in done.out + done.err, done.err
    lines = [json.loads(line) for line in done.out.splitlines()]
    return {work: (said, seconds) for (work, _, _), (said, seconds) in zip(_OUTCOMES, lines, strict=True)}


@pytest.mark.parametrize(("work", "said"), [(work, said) for work, _, said in _OUTCOMES])
def test_what_happens_to_the_child_is_said_in_one_line_and_soon(outcomes: Any, work: str, said: str) -> None:
    line, seconds = outcomes[work]
    assert said in line and "\n" not in line and seconds < 60


def test_a_process_whose_tensorflow_runs_already_opens_files_itself(program: Any) -> None:
    code = """
import tensorflow as tf
tf.constant(1)
from pipeline.models.trial import try_in_child
try_in_child(lambda: 1 / 0, "net.pb")
"""
    done = program(code)
    assert done.status == 0, done.err


def test_a_child_leaves_its_parents_garbage_alone(program: Any) -> None:
    """The finalizer of an iterator over a data set waits for threads, and a fork takes none along."""
    done = program("""
import gc
import tensorflow as tf
from pipeline.models.trial import try_in_child

class Cycle:
    def __init__(self):
        self.itself, self.images = self, iter(tf.data.Dataset.range(9).map(lambda x: x, num_parallel_calls=2).prefetch(2))

gc.set_threshold(100_000)  # more than the parent makes before the fork, and less than the child does
next(Cycle().images)
try_in_child(lambda: [[] for _ in range(200_000)], "net.pb", seconds=20, runs_tensorflow=False)
assert gc.isenabled()
""")
    assert done.status == 0, done.err


_HANDED = """
import json, os, sys
from pathlib import Path
import numpy as np
import pipeline.models.trial as trial
from pipeline.errors import ConvscopeError, UnusableModel
from pipeline.models.network import LayerInfo

class Own:
    pass

class Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)

def refused():
    raise UnusableModel("no such network")

for work in (lambda: [LayerInfo("a", "Conv2D", (1, 2, 3)), np.arange(3)], lambda: 1 / 0, refused, Own, Runs, lambda: sys.stdout):
    try:
        print(repr(trial.opened_in_child(work, "net.pb")()))
    except ConvscopeError as error:
        print(error)
print(os.path.exists("ran"))
"""


def test_what_a_child_made_is_handed_over_and_nothing_that_it_names_is_run(tmp_path: Path, program: Any) -> None:
    done = program(_HANDED, folder=tmp_path)
    assert done.status == 0, done.err
    made, *others, ran = done.out.splitlines()
    assert made == "[LayerInfo(name='a', kind='Conv2D', shape=(1, 2, 3), of_tokens=False, base=None), array([0, 1, 2])]"
    assert others == ["None", "UnusableModel: no such network", "None", "None", "None"] and ran == "False"


_OPENED = """
import sys
from pipeline.compiled.tf_private import has_started
from pipeline.models import registry
from pipeline.models.graphs import frozen
from pipeline.spec.model import ModelSpec

counts = {"check_harmless": 0, "check_operations": 0}  # called where a graph is opened, and wherever it is judged

def counted(name, check):
    def call(*arguments):
        counts[name] += 1
        return check(*arguments)
    return call

for name in counts:
    setattr(frozen, name, counted(name, getattr(frozen, name)))
def specs(sources, **keys):
    return [ModelSpec(source=source, layers=["*"], preprocess="none", **keys) for source in sources]

for several in ([specs(sys.argv[1:])], [[spec] for spec in specs(sys.argv[2:], trusted=True)]):
    for together in several:
        networks = registry.open_networks(together)
        assert has_started()
        judged = [*counts.values()]
        counts.update(dict.fromkeys(counts, 0))
        for network in networks:
            print(network.digest(), len(network.layers()), *judged)
"""


def looping(images: tf.Tensor) -> tf.Tensor:
    """A network that keeps a function in its graph: a loop over its own maps."""
    maps = convolve(images, weights(3, 3, 3, 4), name="edges")
    again = tf.while_loop(lambda x: tf.reduce_max(x) < 9, lambda x: [x * 2 + 1], [maps])[0]
    return tf.identity(tf.reduce_mean(again, (1, 2)), name="end")


def test_graphs_that_a_child_opened_are_those_that_are_opened_without_and_are_judged_here_too(
    tmp_path: Path, tiny_file: Any, program: Any
) -> None:
    """Also in a job whose other network is Keras's, which starts TensorFlow here, as functions that are handed over do."""
    images = tf.TensorSpec((None, 8, 8, 3), tf.float32, name="input")
    paths = [freeze_v2(tmp_path, looping, images, lower=False, name="loop"), freeze_v1(tmp_path, plain, ["end"])]
    done = program(_OPENED, f"file:{tiny_file}", *(f"frozen:{path}" for path in paths))
    assert done.status == 0, done.err
    _, *handed, first, second = (line.rsplit(maxsplit=2) for line in done.out.splitlines())
    assert [[network, "1", "1"] for network, *_ in handed] == [first, second]
    assert [counts for _, *counts in handed] == [["0", "2"]] * 2


def test_a_file_that_a_child_hands_over_is_closed_though_nobody_takes_it(program: Any) -> None:
    done = program("""
import gc, os, sys, warnings
from pipeline.errors import UnusableModel
from pipeline.models.trial import opened_in_child

warnings.simplefilter("error", ResourceWarning)
sys.unraisablehook = lambda unraisable: print(unraisable.exc_value)
opened_in_child(lambda: 5, "net.pb")
try:
    opened_in_child(os.abort, "net.pb")
except UnusableModel:
    pass
gc.collect()
""")
    assert done.status == 0 and not done.out, done.out + done.err
