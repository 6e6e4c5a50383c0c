"""What the package imports of itself is in this checkout, and not left over from another installation."""

import ast
from pathlib import Path

import meanfield

PACKAGE = Path(meanfield.__file__).parent


def source_of(module):
    """The file of a module of this package, or None."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.exists()), None)


def own_imports(path):
    """(line, module, name) of every absolute import of this package in a file; name None for a module itself."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (
                (node.lineno, alias.name, None) for alias in node.names if alias.name.split(".")[0] == "meanfield"
            )
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "meanfield":
            yield from ((node.lineno, node.module, alias.name) for alias in node.names)


def problem(module, name):
    """What is wrong with an import, or None."""
    file = source_of(module)
    if file is None:
        return f"no module {module}"
    if name is None or source_of(f"{module}.{name}") or name in file.read_text(encoding="utf-8"):
        return None
    return f"{module} has no {name}"


def test_every_module_that_is_imported_exists():
    found = [(path, *item) for path in sorted(PACKAGE.rglob("*.py")) for item in own_imports(path)]
    wrong = [f"{path.name}:{line}: {text}" for path, line, module, name in found if (text := problem(module, name))]
    assert wrong == []
    assert len(found) > 300


def test_a_module_that_is_not_there_is_noticed():
    assert problem("meanfield.solvers", "line") == "no module meanfield.solvers"
    assert problem("meanfield", "cli_data") == "meanfield has no cli_data"
    assert problem("meanfield.phases", "diagram") is None
    assert problem("meanfield", "solve") is None


def test_every_folder_of_modules_is_a_package():
    """Or it would be missing from what is installed."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert sorted(str(folder) for folder in folders if not (folder / "__init__.py").exists()) == []
