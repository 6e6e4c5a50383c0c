"""Equations of theories other than class tasks, and the blocks of equations in Markdown pages."""

import numpy as np
import pytest
import sympy as sp

import meanfield as mf
from meanfield.symbolic.pages import THEORIES, latex_of, pages, rendered

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(7, 9)), RNG.normal(size=(7, 2))


def evaluated(expression, arrays, numbers):
    """An index expression in numbers: free indices become axes, by name."""
    sizes = {"P": 7, "m": 2}
    plain = expression.subs({s: sizes[str(s)] for s in expression.free_symbols if str(s) in sizes})
    plain = plain.doit()

    def entry(x):
        return sp.Float(float(arrays[str(x.base)][tuple(int(i) - 1 for i in x.indices)]))

    return float(plain.subs(numbers).replace(lambda x: isinstance(x, sp.Indexed), entry))


def symbols(expression):
    return {str(s): s for s in expression.free_symbols}


@pytest.mark.parametrize("depth", [1, 3])
def test_equations_of_linear_networks_hold_for_the_solution(depth):
    network = mf.Network("linear", depth=depth, sigma_a=1.3)
    task = mf.data_task(X, Y)
    tau = 0.2 if depth == 1 else 0.0
    found, post = mf.equations(network, task), mf.solve(network, task, tau=tau)
    s = post.solution
    last = np.asarray(task.inputs @ task.inputs.T) / task.n_inputs  # K_{L - 1}: K_0 and what the layers learned
    if depth > 1:
        last = last + task.targets @ s.learned[depth - 1] @ task.targets.T
    arrays = {"t": s.t, "Y": task.targets, "U": s.readout_covariance, "K": last}
    variance = 1.3**2 / 7 ** (1 / depth)
    match, inverse = found.stationarity[:2]
    names = symbols(match.rhs) | symbols(match.lhs) | symbols(inverse.rhs)
    numbers = {names["s"]: variance, names["tau"]: tau}
    for sample, output in ((1, 1), (4, 2), (7, 1)):
        at = numbers | {names["mu"]: sample, names["r"]: output}
        assert evaluated(match.rhs, arrays, at) == pytest.approx(task.targets[sample - 1, output - 1], abs=1e-9)
    exact = np.linalg.inv(s.readout_covariance)
    for first, second in ((1, 1), (2, 1)):
        at = numbers | {names["r"]: first, names["j"]: second}
        assert evaluated(inverse.rhs, arrays, at) == pytest.approx(exact[first - 1, second - 1], abs=1e-8)


def test_equations_of_lazy_networks_hold_for_the_solution():
    network, task = mf.Network("relu", depth=2, scaling="lazy", sigma_w=1.2), mf.data_task(X, Y)
    found, post = mf.equations(network, task), mf.solve(network, task, tau=0.1)
    s = post.solution
    kernel = (s.eigenvectors * (s.eigenvalues - 0.1)) @ s.eigenvectors.T / s.readout_variance
    (match, _), arrays = found.stationarity, {"t": s.t, "Y": task.targets, "K": kernel}
    names = symbols(match.rhs)
    at = {names["s"]: s.readout_variance, names["T"]: 0.1, names["mu"]: 3, names["r"]: 2}
    assert evaluated(match.rhs, arrays, at) == pytest.approx(task.targets[2, 1], abs=1e-9)


def test_expectation_propagation_is_exact_for_a_quadratic_exponent():
    """One sample, phi(z) = z: cavity = prior, and the fixed-point equations give the tilted Gaussian."""
    rows = mf.equations(mf.Network("sigmoid"), mf.data_task(X, Y)).stationarity
    cavity_var, cavity_mean, tilted_mean, tilted_var = rows[4], rows[5], rows[7], rows[8]
    names = symbols(cavity_var.rhs) | symbols(cavity_mean.rhs) | symbols(cavity_var.lhs) | symbols(cavity_mean.lhs)
    k, prior = sp.Rational(7, 10), sp.Rational(3, 2)
    m, v = names[r"\tilde{m}_{\mu}"], names[r"\tilde{v}_{\mu}"]
    site = {names[r"S_{\mu}"]: 0, names[r"\nu_{\mu}"]: k}
    marginal = {names[r"v_{\mu}"]: prior, names[r"m_{\mu}"]: prior * k}
    assert cavity_var.rhs.subs(site | marginal) == prior
    assert cavity_mean.rhs.subs(site | marginal | {v: prior}) == 0
    normal = next(iter(tilted_mean.rhs.atoms(sp.core.function.AppliedUndef)))
    log_z = k * m + k**2 * v / 2
    filled = [row.rhs.subs(normal, log_z).doit().subs({m: 0, v: prior}) for row in (tilted_mean, tilted_var)]
    assert filled == [prior * k, prior]


@pytest.mark.parametrize(
    ("phi", "theory"), [("sigmoid", "general data"), ("relu", "general data with outliers"), ("linear", "linear")]
)
def test_what_is_solved_on_data(phi, theory):
    task = mf.data_task(X, Y)
    found = mf.equations(mf.Network(phi), task)
    assert found.theory == theory
    assert (found.constraint is not None) is (phi == "relu")
    text = found.latex()
    assert text.count("{") == text.count("}")
    if phi != "linear":
        with pytest.raises(ValueError, match="depth 2 on data"):
            mf.equations(mf.Network(phi, 2), task)


def test_every_page_shows_the_equations_that_are_derived():
    """`python -m meanfield.activations.generate` rewrites them."""
    for page in pages():
        text = page.read_text()
        assert rendered(text) == text, page


@pytest.mark.parametrize("name", THEORIES)
def test_blocks_of_pages(tmp_path, name):
    page = tmp_path / "THEORY.md"
    page.write_text(f"# A\n\n<!-- equations: {name} -->\nold\n<!-- end -->\n\nThe rest.\n")
    assert list(pages(tmp_path)) == [page]
    found = rendered(page.read_text())
    assert found != page.read_text()  # what is there is not what is derived
    assert latex_of(name).splitlines()[1] in found
    assert found.startswith("# A\n")
    assert found.endswith("The rest.\n")
    assert rendered(found) == found
    assert rendered(found.replace("sum", "prod")) == found


def test_bad_blocks_are_refused():
    assert rendered("no equations here") == "no equations here"
    with pytest.raises(ValueError, match="no equations 'deep'"):
        rendered("<!-- equations: deep -->\n<!-- end -->")
    for page in ("<!-- equations: lazy -->\n", "<!-- equations: lazy -->\n<!-- equations: linear -->\n<!-- end -->"):
        with pytest.raises(ValueError, match="no <!-- end -->"):
            rendered(page)
