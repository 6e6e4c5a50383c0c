"""One door: what no theory covers is refused by every entry, with the reasons, before anything is solved."""

import json
import math
import re

import numpy as np
import pytest
import sympy as sp

import meanfield as mf
from meanfield.cli.main import main
from meanfield.posterior.registry import covering_theory, theories
from meanfield.theories.single_layer.transitions.transition import locate

TASK = mf.class_task(fractions=(0.5, 0.25, 0.25))
Z, OFFSET, BEND = sp.symbols("z c b", real=True)
KINKS = sum(sp.Abs(Z - place) for place in range(4))
AFFINE = mf.Activation(Z + OFFSET, Z, name="affine", parameters={"c": 0.5})
X = np.random.default_rng(0).normal(size=(6, 4))
Y = np.where(np.eye(2)[[0, 1] * 3], 1.0, 0.0)
DATA = mf.data_task(X, Y=Y)
CONFLICT = mf.data_task(np.vstack([X[:5], X[:1]]), Y=Y)

CLASS_REFUSALS = {
    "depth 7": (mf.Network(KINKS, depth=7), 0.1, "for one hidden layer, the network has 7"),
    "four kinks, depth 2": (mf.Network(KINKS, depth=2), 0.0, "neurons may condense in every layer"),
    "lazy": (mf.Network("tanh", scaling="lazy"), 0.0, "lazy networks are solved on data only"),
    "affine": (mf.Network(AFFINE), 0.0, r"affine with an offset, phi\(0\) = 0.5"),
    "cold": (mf.Network("sigmoid"), -0.1, "tau must be a real number >= 0"),
}
DATA_REFUSALS = {
    "depth 2": (mf.Network("tanh", depth=2), DATA, 0.1, "nonlinear networks of 2 hidden layers are not solved on data"),
    "linear, depth 2": (mf.Network("linear", depth=2), DATA, 0.1, "depth 2 are solved in closed form at tau = 0 only"),
    "affine": (mf.Network(AFFINE), DATA, 0.1, "affine with an offset"),
    "tau = 0": (mf.Network("tanh"), DATA, 0.0, "need tau = N T > 0"),
    "conflict": (mf.Network("linear"), CONFLICT, 0.0, "samples 0 and 5 have the same inputs but different targets"),
    "lazy conflict": (mf.Network("tanh", scaling="lazy"), CONFLICT, 0.0, "the same inputs but different targets"),
    "slopes alike": (mf.Network(Z + sp.tanh(Z)), DATA, 0.1, "unbounded networks on data need different slopes"),
}


def class_cases():
    return pytest.mark.parametrize(("network", "tau", "reason"), CLASS_REFUSALS.values(), ids=CLASS_REFUSALS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    diagram = mf.sweep(mf.Network("sigmoid"), TASK, off=[0.1, 0.2])
    data = mf.solve(mf.Network("linear"), DATA, tau=0.1)
    return {
        "posterior": diagram.posterior(0).save(folder / "posterior"),
        "diagram": diagram.save(folder / "diagram"),
        "data": data.save(folder / "data"),
    }


def with_header(path, target, **changes):
    """The file with some entries of its header replaced."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = json.loads(str(arrays.pop("header")))
    tau = changes.pop("tau")
    header |= changes
    if "solution" in header:
        header["solution"]["tau"] = tau
    header["tau"] = tau
    if "kind" not in header and "axes" not in header:
        del header["tau"]
    np.savez(target, header=np.array(json.dumps(header)), **arrays)
    return target


@class_cases()
@pytest.mark.parametrize("n_samples", [math.inf, 40.0])
def test_class_tasks_are_refused_by_solve_and_sweep(network, tau, reason, n_samples):
    task = TASK.with_(n_samples=n_samples)
    with pytest.raises(ValueError, match=reason):
        mf.solve(network, task, tau)
    with pytest.raises(ValueError, match=reason):
        mf.sweep(network, task, tau, off=[0.1, 0.2])
    with pytest.raises(ValueError, match=reason):
        mf.sweep(network, task, off=[0.1, 0.2], tau=[tau, 0.5 + tau])


@pytest.mark.parametrize("n_samples", [math.inf, 40.0])
def test_deep_networks_are_swept_as_they_are_solved(n_samples):
    task, network = TASK.with_(n_samples=n_samples), mf.Network("sigmoid", depth=2)
    assert covering_theory(network, task, 0.1).name == "deep"
    diagram = mf.sweep(network, task, 0.1, off=[0.1, 0.2], progress=False)
    assert diagram.certified.all()
    for i, off in enumerate((0.1, 0.2)):
        alone = mf.solve(network, task.with_(off=off), 0.1)
        assert diagram.posterior(i).objective == pytest.approx(alone.objective, rel=1e-7)


@class_cases()
def test_class_tasks_are_refused_on_load(network, tau, reason, files, tmp_path):
    described = {"network": network.to_dict(), "tau": tau}
    with pytest.raises(ValueError, match=reason):
        mf.SingleNeuronPosterior.load(with_header(files["posterior"], tmp_path / "posterior.npz", **described))
    with pytest.raises(ValueError, match=reason):
        mf.PhaseDiagram.load(with_header(files["diagram"], tmp_path / "diagram.npz", **described))


@class_cases()
def test_class_tasks_are_refused_by_transitions(network, tau, reason, files):
    solution = mf.SingleNeuronPosterior.load(files["posterior"]).solution
    with pytest.raises(ValueError, match=reason):
        locate("weight", network, TASK, tau, "off", solution, codes=(0,))


@pytest.mark.parametrize(("network", "task", "tau", "reason"), DATA_REFUSALS.values(), ids=DATA_REFUSALS)
def test_data_tasks_are_refused_by_solve_and_on_load(network, task, tau, reason, files, tmp_path):
    with pytest.raises(ValueError, match=reason):
        mf.solve(network, task, tau)
    header, arrays = task.to_arrays()
    forged = with_header(files["data"], tmp_path / "data.npz", network=network.to_dict(), task=header, tau=tau)
    with np.load(forged, allow_pickle=False) as archive:
        stored = {name: archive[name] for name in archive.files}
    np.savez(forged, **(stored | arrays))
    with pytest.raises(ValueError, match=reason):
        mf.DataPosterior.load(forged)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"activation": "tanh", "depth": 2}, "nonlinear networks of 2 hidden layers"),
        ({"activation": "linear", "depth": 2, "tau": 0.1}, "in closed form at tau = 0 only"),
        ({"activation": "tanh", "tau": 0.0}, "need tau = N T > 0"),
        ({"activation": AFFINE}, "affine with an offset"),
    ],
)
def test_estimators_refuse_the_same(given, reason):
    estimator = pytest.importorskip("meanfield.estimator", reason="needs scikit-learn, the extra `data`")
    with pytest.raises(ValueError, match=reason):
        estimator.NonLazyClassifier(**given).fit(X, [0, 1] * 3)
    with pytest.raises(ValueError, match=reason):
        estimator.NonLazyRegressor(**given).fit(X, X[:, 0])


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--activation", "z + 1/2"], "affine with an offset"),
        (["--tau", "-0.5"], "tau must be a real number >= 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
@pytest.mark.parametrize("command", ["solve", "phase-diagram"])
def test_the_command_refuses_the_same(command, flags, reason, tmp_path, capsys):
    target = ["--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(main([command, *flags, *target]))
    assert stop.value.code == 2
    assert re.search(reason, capsys.readouterr().err)


def test_a_sweep_that_leaves_the_theory_is_refused_before_it_starts():
    """phi = tanh bent into z + 1/2 at the last point: no solver is called."""
    bent = mf.Activation(Z + BEND * sp.tanh(Z) + sp.Rational(1, 2), Z, name="bent", parameters={"b": 1.0})
    with pytest.raises(ValueError, match="affine with an offset"):
        mf.sweep(mf.Network(bent), TASK, b=[1.0, 0.5, 0.0])


def test_a_sweep_crosses_from_one_theory_into_another():
    """A leaky ReLU of slope 1 is the linear network, whose scheme is another one."""
    diagram = mf.sweep(mf.Network("leaky_relu"), TASK.with_(off=0.3), slope=[0.5, 1.0])
    assert diagram.certified.all()
    assert diagram.posterior(1).scheme == "analog"
    alone = mf.solve(mf.Network("linear"), TASK.with_(off=0.3))
    assert diagram.objective[1] == pytest.approx(alone.objective, abs=1e-12)


@pytest.mark.parametrize(
    ("network", "task", "tau", "first", "last"),
    [
        (mf.Network("relu", depth=2), TASK, 0.1, "deep networks of rectifiers", "relu is not linear"),
        (mf.Network("tanh", scaling="lazy"), TASK, 0.1, "lazy networks are solved on data", "the network is lazy"),
        (mf.Network("tanh", depth=2), DATA, 0.1, "nonlinear networks of 2 hidden", "the network is not lazy"),
        (mf.Network("tanh"), DATA, 0.0, "nonlinear networks on data need", "tanh is not linear"),
    ],
)
def test_the_theory_that_a_problem_is_of_says_first_what_it_lacks(network, task, tau, first, last):
    with pytest.raises(ValueError) as refused:
        mf.solve(network, task, tau)
    said, others = str(refused.value).split(". Other theories are for other problems: ")
    assert said.startswith(f"no theory covers this network on a {'data' if task is DATA else 'class'} task at tau")
    assert said.split(": ", 1)[1].startswith(first)
    assert last in others


def test_every_theory_is_the_answer_to_something_and_to_one_kind_of_task():
    problems = {
        "linear": [(mf.Network("linear"), TASK, 0.0), (mf.Network("linear", depth=3), DATA, 0.0)],
        "lazy": [(mf.Network("softplus", depth=3, scaling="lazy"), DATA, 0.0)],
        "single_layer": [(mf.Network("sigmoid"), TASK, 0.0), (mf.Network("sigmoid"), TASK.with_(n_samples=40), 0.0)],
        "general_data": [(mf.Network("relu"), DATA, 0.1)],
        "deep": [
            (mf.Network("sigmoid", depth=2), TASK, 0.0),
            (mf.Network("erf", depth=3), TASK.with_(n_samples=40), 0.1),
        ],
    }
    assert {theory.name for theory in theories()} == set(problems)
    for name, mine in problems.items():
        assert {covering_theory(*problem).name for problem in mine} == {name}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"warm_start": "the last one"}, "warm_start must be what solve returned"),
        ({"warm_start": 3.0, "on_failure": "return"}, "warm_start must be what solve returned"),
        ({"max_boxes": 0.5}, "max_boxes must be an integer"),
        ({"on_failure": "ignore"}, "on_failure must be"),
    ],
)
def test_options_are_checked(given, reason):
    for task in (TASK, TASK.with_(n_samples=40), DATA):
        with pytest.raises(ValueError, match=reason):
            mf.solve(mf.Network("linear"), task, 0.1, **given)


def test_a_warm_start_of_another_shape_is_refused_by_every_theory():
    two = mf.solve(mf.Network("linear"), mf.class_task(n_classes=2))
    for network in (mf.Network("linear"), mf.Network("sigmoid")):
        with pytest.raises(ValueError, match=r"classes .samples. and outputs must agree"):
            mf.solve(network, TASK, warm_start=two)
    small = mf.solve(mf.Network("linear"), mf.data_task(X[:4], Y=Y[:4]), tau=0.1)
    with pytest.raises(ValueError, match="outputs must agree"):
        mf.solve(mf.Network("linear"), DATA, tau=0.1, warm_start=small)
