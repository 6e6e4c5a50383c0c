"""CONTRIBUTING.md does what it says: a nonlinearity, a theory, a solver and a plot are added as it tells."""

import contextlib
import importlib.util
import io
import re
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import meanfield
import meanfield as mf
from meanfield.posterior import registry

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PLACE = re.compile(r"# (meanfield/[a-z_/]+\.py)\n")


def blocks():
    """(place or None, source): a block that begins with its path is a new file, any other is run."""
    for source in BLOCK.findall(TEXT):
        place = PLACE.match(source)
        yield (place[1] if place else None), source


FILES = {place: source for place, source in blocks() if place}


def test_the_examples_fit_into_the_lines_of_the_package():
    assert len(FILES) == 5
    assert max(len(line) for _, source in blocks() for line in source.splitlines()) <= 120


@pytest.fixture
def contributed(tmp_path, monkeypatch):
    """The package with the files of the examples in it: folders of the package are looked up in a second place."""
    known = set(sys.modules)
    for place, source in FILES.items():
        assert not (ROOT / place).exists()
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
        if not (path.parent / "__init__.py").exists() and not (ROOT / place).parent.exists():
            (path.parent / "__init__.py").write_text("", encoding="utf-8")
    for folder in ("activations/builtin", "theories", "plot"):
        package = importlib.import_module(f"meanfield.{folder.replace('/', '.')}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "meanfield" / folder)])
    lines = re.findall(r'^    "(meanfield\.theories\.[a-z_]+)",$', TEXT, re.MULTILINE)
    assert len(lines) == 1
    monkeypatch.setattr(registry, "ROOMS", (*registry.ROOMS, *lines))
    registry.theories.cache_clear()
    yield
    registry.theories.cache_clear()
    for name in set(sys.modules) - known:
        if name.replace(".", "/") + ".py" in FILES or name.endswith(".lazy_classes"):
            del sys.modules[name]


def test_the_examples_run_in_order(contributed):
    matplotlib.use("Agg")
    namespace, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        for place, source in blocks():
            if place is None:
                exec(compile(source, "CONTRIBUTING.md", "exec"), namespace)
    plt.close("all")
    assert "-ln p(Y)" in printed.getvalue()
    assert "(optimal)" in printed.getvalue()


def test_without_them_there_is_no_such_activation_and_no_such_theory():
    """The examples add something."""
    lazy, task = mf.Network("sigmoid", scaling="lazy"), mf.class_task(n_classes=2, n_samples=10)
    with pytest.raises(ValueError, match="no theory covers"):
        mf.solve(lazy, task)
    with pytest.raises(ValueError, match="there is no activation 'softsign'"):
        mf.activation("softsign")


def test_the_theory_is_right(contributed):
    """Against the Gaussian process on data: orthogonal inputs, one per sample."""
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=-0.2, n_samples=16)
    network = mf.Network("sigmoid", sigma_a=1.3, sigma_w=0.8, scaling="lazy")
    labels = np.repeat([0, 1, 2], [8, 4, 4])
    reference = mf.solve(network, mf.data_task(4.0 * np.eye(16), task.targets[labels]), tau=0.1)
    found = mf.solve(network, task, tau=0.1)
    np.testing.assert_allclose(found.solution.t[labels], reference.solution.t, rtol=1e-9)
    np.testing.assert_allclose(found.objective, reference.objective, rtol=1e-10)
    np.testing.assert_allclose(found.kernel().matrix(labels), np.asarray(reference.kernel()), atol=1e-12)


def test_the_theory_passes_the_contract_test(contributed, tmp_path):
    """That of every theory, on a problem of this one."""
    spec = importlib.util.spec_from_file_location("contract_of_theories", ROOT / "tests/contract/test_contract.py")
    contract = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(contract)
    case = ("lazy_classes", lambda: (mf.Network("relu", scaling="lazy"), mf.class_task(n_classes=3, n_samples=12), 0.3))
    contract.test_what_every_posterior_has(*case)
    contract.test_the_kernel_has_one_type(*case)
    contract.test_neurons_are_drawn_and_drawn_again(*case)
    contract.test_files_and_pickles(*case, tmp_path)
    contract.test_pictures(*case)
    for question in contract.QUESTIONS:
        contract.test_questions_are_answered_or_refused_in_words(*case, question)
    contract.test_refusals_are_sentences_to_the_user(registry.theory_named("lazy_classes"))


def test_a_wrong_solver_is_found_out(contributed, monkeypatch):
    solver = importlib.import_module("meanfield.theories.lazy_classes.regression")
    right = solver.regression
    monkeypatch.setattr(solver, "regression", lambda *problem: (1.01 * right(*problem)[0], right(*problem)[1]))
    with pytest.raises(mf.ConvergenceError, match="recomputed without the solver's tables"):
        mf.solve(mf.Network("sigmoid", scaling="lazy"), mf.class_task(n_classes=2, n_samples=10), tau=0.3)


def test_the_rooms_are_those_of_the_import_test():
    """Every room is in the table, in the order in which imports go."""
    source = (ROOT / "tests" / "test_imports.py").read_text(encoding="utf-8")
    namespace = {}
    exec(re.search(r"^ROOMS = \[.*?^\]$", source, re.DOTALL | re.MULTILINE)[0], namespace)
    table = re.search(r"^\| room .*?\n\n", TEXT, re.DOTALL | re.MULTILINE)[0]
    position = {
        name: table.find(f"`{name}/`") + table.find(f"`{name}.py`") + 1 for row in namespace["ROOMS"] for name in row
    }
    left_out = {"drawing", "__main__"}
    assert {name for name, at in position.items() if at < 0} == left_out
    order = [max(position[name] for name in row if name not in left_out) for row in namespace["ROOMS"][:-1]]
    assert order == sorted(order)


def test_every_file_it_names_exists():
    named = set(re.findall(r"`((?:[A-Za-z_]+/)*[A-Za-z_]+\.(?:py|md)|(?:[a-z_]+/)+)`", TEXT)) - {
        "THEORY.md",
        "theory.py",
    }
    package = Path(meanfield.__file__).parent
    inside = {path.relative_to(package).as_posix() for path in package.rglob("*")}
    for name in named:
        parts = name.rstrip("/")
        assert (ROOT / name).exists() or any(f"/{path}".endswith(f"/{parts}") for path in inside), name


def test_a_sweep_with_it_is_refused_in_words(contributed):
    network, task = mf.Network("sigmoid", scaling="lazy"), mf.class_task(n_classes=2, n_samples=10)
    with pytest.raises(ValueError, match="not lazy networks of one hidden layer on class tasks"):
        mf.sweep(network, task, 0.3, off=[0.0, 0.1])


def test_every_test_has_a_row_in_the_list_of_tests():
    """Patterns and folders of the list cover every file, and every one stands for something."""
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    patterns = re.findall(r"`((?:[a-z_*]+/)*(?:test_[a-z_*]+\.py)?)`", text)
    covered = set()
    for pattern in filter(None, patterns):
        found = set((ROOT / "tests").glob(pattern + ("**/*.py" if pattern.endswith("/") else "")))
        covered |= found
    missing = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py") if path not in covered}
    assert not missing
