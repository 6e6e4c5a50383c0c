"""Every theory answers the same questions, or refuses them in words; a new theory adds its problems to `CASES`."""

import pickle

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import meanfield as mf
from meanfield.activations.builtin import names
from meanfield.posterior.certificate import Certificate
from meanfield.posterior.data_posterior import DataPosterior
from meanfield.posterior.kernel import Kernel
from meanfield.posterior.neurons import Neurons
from meanfield.posterior.posterior import NotAvailable, Posterior
from meanfield.posterior.registry import covering_theory, theories, theory_named
from meanfield.posterior.status import Status
from meanfield.problem.problem import Problem

CLASSES = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.0)
FEW = mf.class_task(targets=[1, -1], n_samples=40)
_GENERATOR = np.random.default_rng(3)
_INPUTS = _GENERATOR.standard_normal((8, 12))
DATA = mf.data_task(_INPUTS, labels=[0, 1] * 4)

# Of each theory: problems that it covers, for the activations that make a difference.
CASES = {
    "linear": [
        ("linear, classes", lambda: (mf.Network("linear"), CLASSES, 0.0)),
        ("linear, data", lambda: (mf.Network("linear"), DATA, 0.1)),
        ("linear, deep, data", lambda: (mf.Network("linear", depth=3), DATA, 0.0)),
    ],
    "lazy": [(f"lazy {phi}", lambda phi=phi: (mf.Network(phi, scaling="lazy", depth=2), DATA, 0.1)) for phi in names()],
    "single_layer": [
        *((f"{phi}, classes", lambda phi=phi: (mf.Network(phi), FEW.with_(n_samples=np.inf), 0.1))
          for phi in names() if phi != "linear"),
        *((f"{phi}, finite P", lambda phi=phi: (mf.Network(phi), FEW, 0.1)) for phi in ("sigmoid", "erf")),
        ("relu, finite P", lambda: (mf.Network("relu"), CLASSES.with_(n_samples=200), 0.02)),
    ],
    "deep": [
        ("two layers", lambda: (mf.Network("sigmoid", depth=2), FEW, 0.1)),
        ("three layers", lambda: (mf.Network("sigmoid", depth=3), FEW, 0.1)),
        ("two layers of rectifiers", lambda: (mf.Network("relu", depth=2), FEW.with_(n_samples=100), 0.1)),
    ],
    "general_data": [(f"{phi}, data", lambda phi=phi: (mf.Network(phi), DATA, 0.2)) for phi in ("sigmoid", "step",
        "relu")],
}  # fmt: skip
ALL = [pytest.param(theory, make, id=name) for theory, cases in CASES.items() for name, make in cases]
_SOLVED: dict[object, Posterior] = {}


def solved(make):
    if make not in _SOLVED:
        _SOLVED[make] = mf.solve(*make(), on_failure="return")
    return _SOLVED[make]


def test_every_theory_has_cases_here():
    assert {theory.name for theory in theories()} == set(CASES)
    for theory in theories():
        assert theory_named(theory.name) is theory
        assert theory.answers
        assert isinstance(theory.sweeps, bool)


@pytest.mark.parametrize(("theory", "make"), ALL)
def test_what_every_posterior_has(theory, make):
    post = solved(make)
    assert covering_theory(*make()).name == theory == post.theory
    assert isinstance(post, Posterior)
    assert (post.network, post.tau) == (make()[0], make()[2])
    assert isinstance(post.certificate, Certificate)
    assert isinstance(post.status, Status)
    assert post.status == "optimal", post.message
    assert post.certified
    assert post.scheme in ("analog", "redundant", "sparse", "mixed", "lazy")
    assert np.isfinite(post.objective)
    assert isinstance(post.message, str)
    assert all(isinstance(note, str) for note in post.notes)
    rows, m = post.task.targets.shape
    assert post.order_parameters["t"].shape == post.residual.shape == post.predictions.shape == (rows, m)
    np.testing.assert_allclose(post.predictions + post.residual, post.task.targets, atol=1e-12)
    assert post.readout_covariance.shape == (m, m)
    assert np.linalg.eigvalsh(post.readout_covariance)[0] >= -1e-12
    assert sum(code.weight for code in post.codes) == pytest.approx(1.0 if post.codes else 0.0)
    assert (post.bulk is None) == (post.scheme not in ("sparse", "mixed"))
    assert type(post).__name__ in repr(post)
    assert str(post.status) in post.table()


@pytest.mark.parametrize(("theory", "make"), ALL)
def test_the_kernel_has_one_type(theory, make):
    kernel = solved(make).kernel()
    assert isinstance(kernel, Kernel)
    n_classes = solved(make).task.n_classes
    assert kernel.block.shape == (n_classes, n_classes)
    assert kernel.block_diagonal.shape == (n_classes,)
    labels = np.arange(n_classes).repeat(2) if kernel.per_class else None
    matrix = kernel.matrix(labels)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-9)
    assert np.linalg.eigvalsh(matrix)[0] > -1e-9 * np.trace(matrix)
    np.testing.assert_array_equal(np.asarray(kernel) + 0.0, kernel + 0.0)


@pytest.mark.parametrize(("theory", "make"), ALL)
def test_neurons_are_drawn_and_drawn_again(theory, make):
    post = solved(make)
    neurons, again = (post.sample_neurons(60, rng=5) for _ in range(2))
    assert isinstance(neurons, Neurons)
    np.testing.assert_allclose(neurons.activations, again.activations, rtol=1e-9, atol=1e-12)
    assert neurons.readouts.shape == (60, post.task.n_outputs)
    assert neurons.activations.shape == (60, neurons.labels.size)
    assert neurons.class_names == tuple(post.task.class_names)
    np.testing.assert_allclose(neurons.activations, post.network.activation(neurons.preactivations))


@pytest.mark.parametrize(("theory", "make"), ALL)
def test_files_and_pickles(theory, make, tmp_path):
    post = solved(make)
    for found in (mf.load(post.save(tmp_path / "post")), type(post).load(tmp_path / "post.npz"),
                  pickle.loads(pickle.dumps(post))):  # fmt: skip
        assert type(found) is type(post)
        assert (found.theory, found.status, found.network) == (post.theory, post.status, post.network)
        np.testing.assert_array_equal(found.order_parameters["t"], post.order_parameters["t"])
        assert found.table() == post.table()
        np.testing.assert_allclose(found.kernel().block, post.kernel().block, atol=1e-10)


@pytest.mark.parametrize(("theory", "make"), ALL)
def test_pictures(theory, make):
    matplotlib.use("Agg")
    post = solved(make)
    axes = mf.plot.plot_activation_map(post)
    assert axes.has_data()
    assert mf.plot.plot_kernel(post).has_data()
    plt.close("all")


QUESTIONS = {
    "readout_density": lambda post: post.readout_density(np.zeros(post.task.n_outputs)),
    "preactivation_density": lambda post: post.preactivation_density(None, 0, [0.0]),
    "activation_density": lambda post: post.activation_density(None, 0, [0.5]),
    "activation_atoms": lambda post: post.activation_atoms(None, 0),
    "frozen": lambda post: post.frozen([code.weight for code in post.codes] or [1.0]),
    "predict": lambda post: post.predict(_INPUTS),
    "predict_class": lambda post: post.predict_class(_INPUTS),
    "generalization_error": lambda post: post.generalization_error(_INPUTS, DATA.targets),
    "code_activations": lambda post: post.code_activations(_INPUTS),
    "one_loop": lambda post: post.one_loop(),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(("theory", "make"), ALL)
def test_questions_are_answered_or_refused_in_words(theory, make, question):
    post = solved(make)
    refusal = None
    try:
        QUESTIONS[question](post)
    except ValueError as error:
        refusal = error
    if refusal is None:
        assert isinstance(post, DataPosterior) or question not in ("predict", "predict_class", "generalization_error")
    elif isinstance(refusal, NotAvailable):
        assert post.theory in str(refusal)
    else:  # the theory has an answer, but not to this question (P = infinity)
        assert len(str(refusal)) > 30


@pytest.mark.parametrize("theory", theories(), ids=lambda theory: theory.name)
def test_refusals_are_sentences_to_the_user(theory):
    lazy = mf.Network("sigmoid", scaling="lazy", depth=2)
    problems = [Problem(lazy, CLASSES, 0.0), Problem(mf.Network("sigmoid", depth=4), DATA, 0.1)]
    problems += [Problem(mf.Network("linear", depth=2), DATA, 0.1), Problem(mf.Network("sigmoid"), DATA, 0.0)]
    for problem in problems:
        reason = theory.refuses(problem)
        assert reason is None or (isinstance(reason, str) and len(reason) > 10)
        with pytest.raises(ValueError, match="no theory covers") as refused:
            covering_theory(*problem)
        assert reason in str(refused.value)
