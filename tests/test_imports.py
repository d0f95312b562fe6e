"""The directions of the house: what each package, floor and room may import, read from the source without running it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# What each package may import of the three.
PACKAGES = {"jobs": {"jobs", "pipeline", "recfield"}, "pipeline": {"pipeline", "recfield"}, "recfield": {"recfield"}}

# The rooms of pipeline/, floor by floor: a room imports from lower floors alone. A module named here stands lower than its room.
FLOORS = (
    ("live", "pictures_on_demand"),
    ("results", "shards"),
    ("run",),
    ("load",),
    ("stages",),
    ("engines",),
    (
        "activations",
        "attribution",
        "atlas",
        "circuits",
        "concepts",
        "directions",
        "dream",
        "featuremaps",
        "fields",
        "filters",
        "patches",
        "patterns",
        "report",
    ),
    ("ascent",),
    ("inputs", "job"),
    ("compiled",),
    ("models", "sources"),
    ("receipt",),
    ("spec",),  # asks the store what is an address, and the tables of objectives and methods what there is
    ("store", "ascent.objectives", "attribution.methods"),
    ("models.network",),
    ("drawing",),
    ("progress",),
    ("errors", "exact_sums", "geometry", "hardware", "options", "own_process", "scrambling"),
)

# What the rooms below `stages`, which joins them, may use of models and sources: what all kinds have in common.
COMMON = {
    "pipeline.models.head",
    "pipeline.models.labels",
    "pipeline.models.network",
    "pipeline.models.selection",
    "pipeline.models.tokens.flow",
    "pipeline.sources.decode",  # the one place where image files are understood
    "pipeline.sources.source",
    "pipeline.sources.fit",
    "pipeline.sources.picking",
    "pipeline.sources.readable",
}
JOINERS = {"inputs", "job", "live", "load", "pictures_on_demand", "run", "shards", "stages"}

# Where private and undocumented APIs of TensorFlow, Keras and TFDS are touched, and nowhere else. These modules import
# nothing of ours, so that every floor may use them.
PRIVATE_DOORS = ("pipeline.compiled.keras_private", "pipeline.compiled.tf_private", "pipeline.compiled.tfds_private")
PRIVATE_MODULES = ("tensorflow.python", "tensorflow.compiler", "tensorflow.lite", "keras.src", "tensorflow_datasets.core")
PRIVATE_ATTRIBUTES = ("tf.python", "tensorflow.python", "keras.src", "tfds.core.constants")

# Who may import TensorFlow: at once, or only inside a function, on use.
TENSORFLOW = {"tensorflow", "tensorflow_datasets", "keras"}
AT_ONCE = (
    "jobs.training",
    "pipeline.activations.scan_pass",
    "pipeline.activations.winner_maps",
    "pipeline.activations.scan",
    "pipeline.ascent",
    "pipeline.attribution",
    "pipeline.compiled",
    "pipeline.directions.autoencoder",
    "pipeline.dream",
    "pipeline.models",
)
ON_USE = (*AT_ONCE, "pipeline.circuits", "pipeline.concepts", "pipeline.directions", "pipeline.fields", "pipeline.sources")
RAY = ("pipeline.engines.ray",)


# What draws, by its name as code writes it, and its one room; and who turns pixels into bytes and back.
DRAWING_MODULES = ("PIL.ImageDraw", "PIL.ImageFont", "matplotlib")
DRAWING_CALLS = {
    f"cv2.{name}"
    for name in (
        *("line", "arrowedLine", "rectangle", "circle", "ellipse", "polylines", "fillPoly", "drawContours", "drawMarker"),
        *("putText", "getTextSize", "applyColorMap"),
    )
}
CODECS = {"cv2.imencode": ("pipeline.drawing.pixels",), "cv2.imdecode": ("pipeline.drawing.pixels", "pipeline.sources.decode")}


@dataclass(frozen=True)
class Import:
    """One imported module: by whom, on which line, whether when the importer is itself imported, or for types alone."""

    by: str
    line: int
    module: str
    at_once: bool
    for_types: bool

    def __str__(self) -> str:
        return f"{self.by}:{self.line} imports {self.module}"


def modules() -> dict[str, Path]:
    """Every module of the three packages by its dotted name."""
    entry = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            entry[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return entry


MODULES = modules()


def imports_of(name: str, source: str) -> Iterator[Import]:
    """The imports of a module, wherever in it they stand."""

    def walk(node: ast.AST, at_once: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            for module in imported(child):
                yield Import(name, child.lineno, module, at_once and not for_types, for_types)  # type: ignore[attr-defined]
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from walk(child, at_once and not inside, for_types or types)

    def imported(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name}:{node.lineno} imports by a relative name; write it in full"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module

    return walk(ast.parse(source), True, False)


IMPORTS = [record for name, path in MODULES.items() for record in imports_of(name, path.read_text(encoding="utf-8"))]


def top(module: str) -> str:
    return module.partition(".")[0]


def room(module: str) -> str:
    """The room of pipeline/ in which a module lies; "" for the package itself."""
    return module.split(".")[1] if module.count(".") else ""


def floor(module: str) -> int:
    names = (module.removeprefix("pipeline."), room(module))
    return next(number for name in names for number, rooms in enumerate(FLOORS) if name in rooms)


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def within_pipeline() -> list[Import]:
    """The imports from one room of pipeline/ into another."""
    inside = [entry for entry in IMPORTS if top(entry.by) == top(entry.module) == "pipeline"]
    return [entry for entry in inside if room(entry.by) != room(entry.module) and entry.by != "pipeline"]


def test_the_reader_of_imports_sees_every_kind_of_import() -> None:
    source = """
import a.b, c
from pipeline import spec, run as r, load_spec
if TYPE_CHECKING:
    import d
def f():
    from pipeline.compiled import compile
    class C:
        import e
try:
    import g
except ImportError:
    pass
"""
    entry = {(one.module, one.at_once, one.for_types) for one in imports_of("x", source)}
    assert entry == {
        ("a.b", True, False),
        ("c", True, False),
        ("pipeline.spec", True, False),
        ("pipeline.run", True, False),
        ("pipeline", True, False),
        ("d", False, True),
        ("pipeline.compiled.compile", False, False),
        ("e", False, False),
        ("g", True, False),
    }
    assert len(MODULES) > 30 and len(IMPORTS) > 100


def test_jobs_import_pipeline_and_pipeline_imports_recfield_and_nothing_points_back() -> None:
    ours = {*PACKAGES, "tests", "bench"}
    assert [str(entry) for entry in IMPORTS if top(entry.module) in ours - PACKAGES[top(entry.by)]] == []


def test_recfield_imports_numpy_and_the_standard_library_alone() -> None:
    allowed = {"recfield", "numpy", *sys.stdlib_module_names}
    assert [str(entry) for entry in IMPORTS if top(entry.by) == "recfield" and top(entry.module) not in allowed] == []


def test_every_room_stands_on_a_floor() -> None:
    rooms = {room(name) for name in MODULES if top(name) == "pipeline"} - {""}
    assert rooms - {name for rooms_ in FLOORS for name in rooms_} == set()


def test_a_room_imports_from_lower_floors_alone() -> None:
    inside = [entry for entry in within_pipeline() if entry.module not in PRIVATE_DOORS]
    assert [str(entry) for entry in inside if room(entry.module) == "" or floor(entry.module) <= floor(entry.by)] == []


def test_the_doors_to_private_apis_import_nothing_of_ours() -> None:
    assert set(PRIVATE_DOORS) == {name for name in MODULES if name.endswith("_private")}
    assert [str(entry) for entry in IMPORTS if entry.by in PRIVATE_DOORS and top(entry.module) in PACKAGES] == []


def private_uses(name: str, source: str) -> Iterator[str]:
    """The imports of private modules, and the private attributes of other libraries' objects, that a module's source has.

    Attributes of `self` and `cls`, and those that the same module assigns or defines, are its own; what named tuples
    and enumerations offer under an underscore is public.
    """
    nodes = list(ast.walk(ast.parse(source)))
    offered = {"_asdict", "_fields", "_make", "_replace"}
    own = offered | {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
    for entry in imports_of(name, source):
        if within(entry.module, PRIVATE_MODULES) and not entry.for_types:
            yield str(entry)
    for node in nodes:
        if isinstance(node, ast.Attribute):
            public = ast.unparse(node) == "os._exit"
            foreign = node.attr.startswith("_") and not node.attr.endswith("__") and node.attr not in own and not public
            if foreign or ast.unparse(node) in PRIVATE_ATTRIBUTES:
                yield f"{name}:{node.lineno} uses {ast.unparse(node)}"
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        if called in ("getattr", "hasattr", "setattr", "delattr") and isinstance(node, ast.Call):
            attribute = node.args[1]
            if isinstance(attribute, ast.Constant) and str(attribute.value).startswith("_") and attribute.value[-2:] != "__":
                yield f"{name}:{node.lineno} uses {ast.unparse(node)}"


def test_the_reader_of_private_uses_sees_every_kind_of_use() -> None:
    source = """
from tensorflow.python.eager import context
import keras.src.utils
from tensorflow_datasets.core import constants
tensor._keras_history
hasattr(model, "_functional")
keras.src.backend.config
tfds.core.constants.DATA_DIR
class Own:
    _count: int
    def _step(self): self._rest = other._count
Own()._step(); state._replace(a=1); value.__class__; getattr(value, "__module__", None)
from tensorflow.core.framework import graph_pb2
"""
    assert set(private_uses("x", source)) == {
        "x:2 imports tensorflow.python.eager",
        "x:3 imports keras.src.utils",
        "x:4 imports tensorflow_datasets.core",
        "x:5 uses tensor._keras_history",
        "x:6 uses hasattr(model, '_functional')",
        "x:7 uses keras.src",
        "x:8 uses tfds.core.constants",
    }


def test_private_apis_are_used_in_their_doors_alone() -> None:
    product = {name: path for name, path in MODULES.items() if name not in PRIVATE_DOORS}
    uses = [use for name, path in product.items() for use in private_uses(name, path.read_text(encoding="utf-8"))]
    assert uses == []
    doors = [use for name in PRIVATE_DOORS for use in private_uses(name, MODULES[name].read_text(encoding="utf-8"))]
    assert len(doors) > 5


def test_rooms_know_only_what_all_models_and_all_sources_have_in_common() -> None:
    kinds = [entry for entry in within_pipeline() if room(entry.module) in ("models", "sources")]
    assert [str(entry) for entry in kinds if room(entry.by) not in JOINERS and entry.module not in COMMON] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: {entry.module for entry in IMPORTS if entry.by == name and entry.module in MODULES} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for module in sorted(graph[name] - {name}):
                visit(module, (*path, name))
            done.add(name)

    for name in sorted(MODULES):
        visit(name, ())


def test_tensorflow_is_imported_only_where_it_is_needed_and_on_use_where_that_is_enough() -> None:
    users = [entry for entry in IMPORTS if top(entry.module) in TENSORFLOW and not entry.for_types]
    assert users
    assert [str(entry) for entry in users if not within(entry.by, ON_USE)] == []
    assert [str(entry) for entry in users if entry.at_once and not within(entry.by, AT_ONCE)] == []


def test_nothing_that_starts_a_job_imports_tensorflow_or_scipy_on_the_way() -> None:
    """Not even through other modules: specs are read, help is printed, and pages are made without them."""
    commands = ["jobs.commands", "jobs.cli", "pipeline.run", "pipeline.load", "pipeline.spec", "pipeline.progress"]
    pages = ["pipeline.stages", "pipeline.report.page", "pipeline.report.compare"]
    waiting, seen = commands + pages, set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            at_once = [entry.module for entry in IMPORTS if entry.by == name and entry.at_once]
            assert not {top(module) for module in at_once} & (TENSORFLOW | {"scipy"}), name
            waiting += [module for module in at_once if module in MODULES]
            waiting += [name.rpartition(".")[0]] if "." in name else []
    assert "pipeline.store.files" in seen


def test_ray_is_imported_in_its_engine_alone() -> None:
    assert [str(entry) for entry in IMPORTS if top(entry.module) == "ray" and not within(entry.by, RAY)] == []


def attributes_of(source: str) -> Iterator[tuple[int, str]]:
    """The line and the dotted name of every attribute that a module's source uses."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            yield node.lineno, ast.unparse(node)


def test_one_room_draws() -> None:
    imports = [entry for entry in IMPORTS if within(entry.module, DRAWING_MODULES)]
    assert {room(entry.by) for entry in imports} == {"drawing"}, [str(entry) for entry in imports if room(entry.by) != "drawing"]
    uses = [(name, line, used) for name in MODULES for line, used in attributes_of(MODULES[name].read_text(encoding="utf-8"))]
    drawn = [(name, line, used) for name, line, used in uses if used in DRAWING_CALLS]
    assert drawn and [use for use in drawn if room(use[0]) != "drawing"] == []
    coded = [(name, line, used) for name, line, used in uses if used in CODECS]
    assert coded and [use for use in coded if use[0] not in CODECS[use[2]]] == []
