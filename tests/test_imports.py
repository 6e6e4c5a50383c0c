"""The house has one-way corridors: who may import whom, and what `import meanfield` must not load."""

import ast
import os
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import meanfield

PACKAGE = Path(meanfield.__file__).parent

# Rooms, from the ground up: a room imports from those before it in this list, never from those behind, and rooms that
# share a line know nothing of each other. Late imports and those of type checkers count.
ROOMS = [
    ["validation"],
    ["archive", "progress", "drawing"],
    ["numerics"],
    ["symbolic"],
    ["activations"],
    ["problem"],
    ["posterior"],
    ["theories"],
    ["solve", "equations"],
    ["phases", "sampling", "datasets", "estimator"],
    ["plot"],
    ["figures"],
    ["cli"],
    ["load"],
    ["__main__"],
]
# Rooms inside theories, likewise. Files beside them put rooms together, and are not listed.
INNER_ROOMS = {
    "theories.single_layer": [["kinds"], ["readout"], ["finite"]],
    "theories.deep": [
        ["layers"],
        ["exchangeable", "unlike_classes", "large_p"],
        ["search", "codes", "fluctuations"],
    ],
}
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}
LOWEST = ("geometry", "validation", "archive", "progress", "drawing", "numerics")  # all that geometry needs
FORWARDERS = {"plot_data", "curves", "sampling.plot"}  # first names of modules that moved; nothing inside uses them


@cache
def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@cache
def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imported(path):
    """Modules of this package, and others, that a file imports: at its top level, in functions, for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package, found = ["meanfield", *path.relative_to(PACKAGE).parts[:-1]], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


@cache
def own_names():
    return {name_of(path) for path in modules()}


@cache
def inside(path):
    """Modules of this package that a file imports."""
    name = name_of(path)
    others = {full.removeprefix("meanfield.") for full in imported(path) if full.startswith("meanfield.")} & own_names()
    return {other for other in others if not name.startswith(f"{other}.")} - {name}  # a module's own package is none


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_one_way(path):
    name = name_of(path)
    if name in FORWARDERS:
        return
    room = name.split(".")[0]
    for other in inside(path):
        assert other not in FORWARDERS, f"{name} imports {other} by its first name"
        there = other.split(".")[0]
        if room == "geometry":
            assert there in LOWEST, f"{name} imports {other}"
        elif there == "geometry":
            assert room in ("figures", "cli", "load"), f"{name} imports {other}"
        elif there != room:
            assert LEVEL[there] < LEVEL[room], f"{name} imports {other}, a room that is not below its own"


@pytest.mark.parametrize("path", [path for path in modules() if name_of(path).startswith("theories.")], ids=name_of)
def test_a_theory_knows_no_other(path):
    """But for the closed forms of linear networks on class tasks, which are kept like those of codes."""
    name = name_of(path)
    for other in inside(path):
        if other.startswith("theories."):
            assert other.split(".")[1] == name.split(".")[1] or name.split(".")[1] == "linear", f"{name}: {other}"


@pytest.mark.parametrize("theory", INNER_ROOMS)
def test_rooms_inside_theories_are_one_way_too(theory):
    level = {f"{theory}.{name}": at for at, names in enumerate(INNER_ROOMS[theory]) for name in names}
    found = 0
    for path in modules():
        name = name_of(path)
        room = name.rpartition(".")[0]
        for there in {other.rpartition(".")[0] for other in inside(path)} & set(level) - {room}:
            found += room in level
            assert level.get(room, len(level)) > level[there], f"{name} imports from {there}"
    assert found > 2  # the rooms are where this test looks for them


def test_no_module_imports_itself_through_others():
    """The import graph has no cycles, within rooms either."""
    graph = {name_of(path): inside(path) for path in modules() if name_of(path) not in FORWARDERS}
    list(TopologicalSorter(graph).static_order())


def test_only_the_plot_modules_import_matplotlib():
    found = {name_of(path) for path in modules() if any(name.split(".")[0] == "matplotlib" for name in imported(path))}
    rooms = {name.split(".")[0] for name in found - {"geometry.plot"}}
    assert rooms <= {"plot", "figures", "phases", "sampling", "geometry"}  # the middle ones for type checkers only
    assert "plot.class_tasks" in found


def test_only_the_compiled_modules_import_numba():
    for path in modules():
        if "numba" in {name.split(".")[0] for name in imported(path)}:
            assert "compiled" in name_of(path).split(".") or name_of(path).startswith("numerics.")


def loaded_after(statement):
    """Modules in a fresh interpreter after a statement."""
    program = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    return set(done.stdout.split())


def test_import_is_light():
    assert not {"sympy", "numba", "matplotlib", "scipy"} & loaded_after("import meanfield")


def test_describing_a_problem_and_asking_for_help_need_no_sympy():
    statement = "import meanfield as mf; mf.Network('sigmoid'); mf.class_task(n_classes=3)"
    assert not {"sympy", "numba", "matplotlib"} & loaded_after(statement)
    help_text = "import contextlib, io\nimport meanfield.cli\nwith contextlib.redirect_stdout(io.StringIO()):\n"
    help_text += "    try:\n        meanfield.cli.main(['--help'])\n    except SystemExit:\n        pass"
    assert not {"sympy", "numba", "matplotlib", "scipy", "numpy"} & loaded_after(help_text)


def test_solving_with_a_built_in_activation_needs_no_sympy():
    statement = "import meanfield as mf; mf.solve(mf.Network('sigmoid'), mf.class_task(n_classes=2))"
    assert not {"sympy", "matplotlib"} & loaded_after(statement)


def test_every_public_name_exists():
    for name in meanfield.__all__:
        assert getattr(meanfield, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        meanfield.nothing  # noqa: B018
