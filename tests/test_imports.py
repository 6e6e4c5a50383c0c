"""The house has one-way corridors: who may import whom, and what `import meanfield` must not load."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import meanfield

PACKAGE = Path(meanfield.__file__).parent

# Lower floors know nothing of higher ones. A module lives on the floor of the longest of these names it starts with.
FLOORS = [
    ["validation", "archive", "progress", "interruptible", "nonnegative", "quadratic", "compiled", "activations", "symbolic"],
    ["activation"],
    ["cumulant", "kernel", "nonlinearity"],
    ["task", "network", "result", "features", "cumulant_change"],
    ["data", "datasets"],
    ["coverage"],
    ["solvers", "sampling", "lazy"],
    ["density", "predict", "predict_general", "readout"],
    ["neurons", "parts", "table"],
    ["posterior", "data_parts", "data_posterior"],
    [
        "sampling.statistics",
        "sampling.summary",
        "sampling.expected",
        "sampling.expected_data",
        "sampling.compare",
        "sampling.trend",
        "sampling.drift",
    ],
    ["solve", "solve_data"],
    ["raster", "solvers.acceptance", "solvers.transition", "solvers.boundary", "solvers.line", "solvers.line_outliers"],
    ["grid", "checkpoint", "phase", "estimator"],
    ["curves", "checked"],
    ["plot", "plot_data", "sampling.plot", "sampling.report"],
    ["cli", "cli_data", "sampling.cli"],
    ["__main__"],
]
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
# `PhaseDiagram.plot` and the command hand over to higher floors when they are called; so does what loads a file, to
# have its claims recomputed, and `equations`, to look up a nonlinearity by its name.
ERRANDS = {
    ("phase", "plot"),
    ("symbolic.equations", "activation"),
    *((name, "checked") for name in ("result", "posterior", "data_posterior", "phase", "sampling.chains")),
    *((f"sampling.{name}", "sampling.plot") for name in ("compare", "trend", "drift")),
}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path):
    """Modules of this package, and others, that a file imports at run time, at its top level or inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):  # names used by type checkers only are not imports
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = [ast.Pass()]
    package = ["meanfield", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def floor_of(name):
    """Level of a module of this package, None for `geometry`, which takes arrays and knows nothing of networks."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in FLOOR:
            return FLOOR[".".join(parts[:length])]
    assert parts[0] == "geometry", f"{name} has no floor yet: add it to FLOORS"
    return None


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_one_way(path):
    own = {name_of(other) for other in modules()}
    name = name_of(path)
    level = floor_of(name)
    for full in imported(path):
        other = full.removeprefix("meanfield.")
        if full == other or other not in own or (name, other) in ERRANDS:
            continue
        if level is None:
            floor = ("geometry", "validation", "archive", "progress", "nonnegative", "compiled")
            assert other.split(".")[0] in floor, f"{name} imports {other}"
        else:
            assert other.split(".")[0] != "geometry" or name == "cli", f"{name} imports {other}"
            assert (floor_of(other) or 0) <= level, f"{name} imports {other} from a higher floor"


def test_no_module_imports_itself_through_others():
    """Within a floor, too, the import graph has no cycles (imports inside functions included)."""
    own = {name_of(path) for path in modules()}
    graph = {}
    for path in modules():
        name = name_of(path)
        others = {full.removeprefix("meanfield.") for full in imported(path) if full.startswith("meanfield.")} & own
        packages = {other for other in others if name.startswith(f"{other}.")}  # a module's own package is no import
        graph[name] = others - packages - {other for module, other in ERRANDS if module == name}
    list(TopologicalSorter(graph).static_order())


def test_only_the_plot_modules_import_matplotlib():
    found = {name_of(path) for path in modules() if any(name.split(".")[0] == "matplotlib" for name in imported(path))}
    assert found <= {"plot", "plot_data", "geometry.plot", "sampling.plot"}
    assert "plot" in found


def test_only_the_compiled_modules_import_numba():
    for path in modules():
        if "numba" in {name.split(".")[0] for name in imported(path)}:
            assert "compiled" in name_of(path).split(".")


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
    help_text = "import contextlib, io\nimport meanfield.cli.main\nwith contextlib.redirect_stdout(io.StringIO()):\n"
    help_text += "    try:\n        meanfield.cli.main.main(['--help'])\n    except SystemExit:\n        pass"
    assert not {"sympy", "numba", "matplotlib", "scipy", "numpy"} & loaded_after(help_text)


def test_solving_with_a_built_in_activation_needs_no_sympy():
    statement = "import meanfield as mf; mf.solve(mf.Network('sigmoid'), mf.class_task(n_classes=2))"
    assert not {"sympy", "matplotlib"} & loaded_after(statement)


def test_every_public_name_exists():
    for name in meanfield.__all__:
        assert getattr(meanfield, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        meanfield.nothing  # noqa: B018
