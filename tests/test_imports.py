"""The house has one-way corridors: who may import whom, and what `import meanfield` must not load."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import meanfield

PACKAGE = Path(meanfield.__file__).parent

# Lower rooms know nothing of higher ones. A module belongs to the longest prefix in this list.
FLOORS = [
    ["validation", "compiled", "activations", "symbolic"],
    ["activation"],
    ["cumulant"],
    ["task", "network", "result"],
    ["density", "readout"],
    ["neurons", "parts", "table"],
    ["posterior"],
    ["solvers"],
    ["solve"],
    ["phase"],
    ["plot"],
    ["cli"],
    ["__main__"],
]
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


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


def room_of(name):
    return name.removeprefix("meanfield").removeprefix(".").split(".")[0]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_one_way(path):
    room = room_of(name_of(path))
    if room == "geometry":  # arrays in, no knowledge of networks
        allowed = {"geometry", "validation", "compiled"}
    else:
        assert room in FLOOR, f"{room} has no floor yet: add it to FLOORS"
        allowed = {other for other, level in FLOOR.items() if level < FLOOR[room]} | {room}
        if FLOOR[room] == 0:
            allowed |= set(FLOORS[0])
    own = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    used = {room_of(name) for name in imported(path) if name.split(".")[0] == "meanfield"} & own
    assert used <= allowed


def test_only_the_plot_modules_import_matplotlib():
    found = {name_of(path) for path in modules() if any(name.split(".")[0] == "matplotlib" for name in imported(path))}
    assert found <= {"plot", "geometry.plot"}
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
