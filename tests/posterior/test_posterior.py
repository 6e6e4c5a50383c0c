"""The posterior object, on solutions found here by an independent method (NumPy quadrature and SciPy roots)."""

import math
from itertools import pairwise

import numpy as np
import pytest
from margins import below
from reference_posteriors import _W, _X, CERTIFICATE, cumulant, make, relu, sigmoid
from scipy import stats
from scipy.integrate import quad

import meanfield as mf
from meanfield.posterior.parts import by_pattern
from meanfield.problem.class_task import class_task
from meanfield.problem.network import Network
from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
from meanfield.theories.single_layer.solution import Solution

# ---- codes, bulk, outliers -----------------------------------------------------------------------


def test_redundant_codes_are_those_of_the_theory_page(redundant):
    assert redundant.scheme == "redundant"
    assert [code.pattern for code in redundant.codes] == ["011", "110", "101", "111"]
    assert [round(code.weight, 4) for code in redundant.codes] == [0.3316, 0.3154, 0.3154, 0.0376]
    assert redundant.codes[1].label == "1-1-0"
    assert redundant.objective == pytest.approx(-3.75433206, abs=5e-9)
    assert (redundant.bulk, redundant.outliers) == (None, ())
    for code in redundant.codes:
        _, mean, variance = cumulant(sigmoid, redundant.solution.t @ code.readout)
        assert code.activation == pytest.approx(mean, abs=1e-12)
        assert code.activation_variance == pytest.approx(variance, abs=1e-12)
        assert code.covariance is None


def test_sparse_parts_are_those_of_the_theory_page(sparse):
    assert sparse.scheme == "sparse"
    assert sparse.objective == pytest.approx(-1.62411463, abs=5e-9)
    assert sparse.bulk is sparse.codes[0]
    assert sparse.bulk.readout == pytest.approx([0.3122, 0.1694, 0.1694], abs=5e-5)
    assert [o.pattern for o in sparse.outliers] == ["100", "010", "001"]
    assert sparse.outliers[0].readout == pytest.approx([0.7596, -0.0865, -0.0865], abs=5e-5)
    assert sparse.outliers[1].preactivation == pytest.approx([0, 1.3673, 0], abs=5e-5)
    for outlier in sparse.outliers:
        assert outlier.weight == pytest.approx(outlier.readout @ outlier.readout, abs=1e-14)


def test_stationarity_holds_in_the_words_of_the_object(redundant, sparse):
    """y_c = sum P_gamma a_gamma G'_gc + sum_o abar_o phi(zbar_oc) + tau t_c."""
    for post in (redundant, sparse):
        f = sum(c.weight * np.outer(c.activation, c.readout) for c in post.codes)
        f = f + sum(np.outer(o.activation, o.readout) for o in post.outliers)
        assert f == pytest.approx(post.predictions, abs=1e-12)
        assert post.predictions == pytest.approx(post.task.targets - post.residual, abs=1e-15)


def test_outliers_of_a_leaky_relu_respond_on_both_branches():
    task = class_task(targets=[1.0, -0.5])
    t, directions = np.array([[1.0], [-2.0]]), np.array([[-1.0], [1.0]])
    bulk = np.zeros((1, 1)), np.ones(1)
    solution = Solution(t, -1.0, 0.0, *bulk, directions, np.array([9.0, 4.0]), CERTIFICATE)
    post = SingleNeuronPosterior(Network("leaky_relu", sigma_w=2.0).with_(slope=0.25), task, 0.0, solution)
    heavy, light = post.outliers
    assert (heavy.pattern, light.pattern) == ("01", "10")
    # kappa = abar.t_c; zbar = k s kappa with s = 1 where kappa > 0 and s = 0.25 where kappa < 0
    assert heavy.preactivation == pytest.approx([4 * 0.25 * -3, 4 * 6])
    assert heavy.activation == pytest.approx([0.25 * -3, 24])
    assert light.preactivation == pytest.approx([4 * 2, 4 * 0.25 * -4])


def test_analog_has_neither_codes_nor_outliers(analog):
    assert (analog.scheme, analog.codes, analog.outliers, analog.bulk) == ("analog", (), (), None)
    u, t = analog.readout_covariance, analog.solution.t
    assert t @ u == pytest.approx(analog.task.targets, abs=1e-13)  # y_c = <a G'(a.t_c)> = U t_c


@pytest.mark.statistical
def test_readout_covariance_is_that_of_drawn_neurons(redundant, sparse, analog, finite):
    for post in (redundant, sparse, analog, finite):
        neurons = post.sample_neurons(5000, rng=1, samples_per_class=1)
        spread = np.trace(post.readout_covariance)
        drawn = np.atleast_2d(np.cov(neurons.readouts.T, bias=True))
        assert below((drawn - post.readout_covariance) / (spread / math.sqrt(5000)))
    code = finite.codes[0]
    expected = code.readout[0] ** 2 + code.covariance[0, 0]
    assert finite.readout_covariance[0, 0] == pytest.approx(expected, rel=1e-13)


# ---- kernel --------------------------------------------------------------------------------------


def test_kernel_is_the_second_moment_of_the_activations(redundant, sparse):
    for phi, post in ((sigmoid, redundant), (relu, sparse)):
        kappa = np.array([post.solution.t @ c.readout for c in post.codes])
        _, mean, variance = cumulant(phi, kappa)
        weight = np.array([c.weight for c in post.codes])
        zbar = np.array([o.preactivation for o in post.outliers]).reshape(-1, 3)
        kernel = post.kernel()
        assert kernel.block == pytest.approx(np.einsum("n,nc,nd->cd", weight, mean, mean) + zbar.T @ zbar, abs=1e-12)
        assert kernel.diagonal - np.diag(kernel.block) == pytest.approx(weight @ variance, abs=1e-12)
        full = kernel.matrix([0, 2, 2])
        assert full[1, 2] == kernel.block[2, 2]
        assert full[1, 1] == kernel.diagonal[2]
        assert np.linalg.eigvalsh(kernel.matrix([0, 0, 1, 1, 2, 2]))[0] > 0


def test_analog_kernel_is_that_of_linear_networks(analog):
    """K_1 = K_0 + Y U^{-1} Y^T."""
    y = analog.task.targets
    block = y @ np.linalg.inv(analog.readout_covariance) @ y.T
    assert analog.kernel().block == pytest.approx(block, abs=1e-12)
    assert analog.kernel().diagonal == pytest.approx(np.diag(block) + 1, abs=1e-12)


def test_kernel_at_finite_p_is_an_average_over_the_readout_density(finite):
    """Riemann sum over the density of this file; codes are not Gaussian, which would be 1e-3 off."""
    a = np.linspace(-7, 7, 401)
    t = finite.solution.t[:, 0]
    g, mean, variance = cumulant(sigmoid, a[:, None] * t)
    density = np.exp(30 * (g @ finite.task.fractions - 0.5 * a**2))
    density /= density.sum()
    kernel = finite.kernel()
    assert kernel.block == pytest.approx(np.einsum("n,nc,nd->cd", density, mean, mean), abs=1e-9)
    assert kernel.diagonal - np.diag(kernel.block) == pytest.approx(density @ variance, abs=1e-9)


def test_codes_of_finite_width_are_averaged_as_gaussians(finite):
    """What is used for unbounded phi and more than four outputs, here against a quadrature."""
    code, t = finite.codes[0], finite.solution.t[:, 0]

    def moment(f):
        spread = math.sqrt(code.covariance[0, 0])
        return quad(lambda x: stats.norm.pdf(x) * f(code.readout[0] + spread * x), -9, 9, epsabs=1e-12)[0]

    def mean(a, c):
        return cumulant(sigmoid, np.array([a * t[c]]))[1][0]

    assert code.activation[0] == pytest.approx(moment(lambda a: mean(a, 0)), abs=1e-9)
    second = finite._second_moment(code)
    assert second[0, 1] == pytest.approx(moment(lambda a: mean(a, 0) * mean(a, 1)), abs=1e-9)
    assert second[1, 1] == pytest.approx(moment(lambda a: mean(a, 1) ** 2), abs=1e-9)


# ---- densities -----------------------------------------------------------------------------------


def test_preactivation_densities_are_tilted_gaussians(redundant, sparse):
    z = np.linspace(-4, 6, 41)
    for phi, post in ((sigmoid, redundant), (relu, sparse)):
        for index, code in enumerate(post.codes):
            for c in range(3):
                kappa = code.readout @ post.solution.t[c]
                expected = stats.norm.pdf(z) * np.exp(kappa * phi(z) - cumulant(phi, kappa)[0])
                assert post.preactivation_density(index, c, z) == pytest.approx(expected, abs=1e-12)


def test_activation_densities_are_normalised(redundant, sparse):
    def mass(post, c, high):
        return quad(lambda v: post.activation_density(0, c, [v])[0], 0, high, limit=300, epsabs=1e-9)[0]

    for c in range(3):
        assert mass(redundant, c, 1) == pytest.approx(1, abs=1e-7)
        assert redundant.activation_atoms("110", c) == {}
        positive = mass(sparse, c, 15)
        atoms = sparse.activation_atoms(0, c)
        assert list(atoms) == [0.0]
        assert positive + atoms[0.0] == pytest.approx(1, abs=1e-7)
        kappa = sparse.bulk.readout @ sparse.solution.t[c]
        assert atoms[0.0] == pytest.approx(0.5 * math.exp(-cumulant(relu, kappa)[0]), abs=1e-9)


@pytest.mark.parametrize("name", ["step", "hard_sigmoid", "gelu", "leaky_relu", "softplus", "hard_tanh"])
def test_activation_density_and_atoms_add_up_for_every_shape(name):
    """Monotone or not, with kinks, jumps and flat pieces: mean and mass of phi(z) agree with G' and 1."""
    post = make(name, class_task(targets=[1.0, -0.5]), np.array([[0.8], [-1.1]]), 0.0, np.array([[0.9]]), np.ones(1))
    phi = post.network.activation
    u, w = 0.5 * (_X + 1), 0.5 * _W
    low, high = max(phi.infimum, -9.0), min(phi.supremum, 9.0)
    corners = sorted(x for x in [*phi(np.array(phi.kinks)), *phi.limits] if low < x < high)
    for c in range(2):
        atoms = post.activation_atoms(0, c)
        mass, mean = sum(atoms.values()), sum(value * p for value, p in atoms.items())
        for start, stop in pairwise([low, *corners, high]):
            v = start + (stop - start) * u**2  # takes up the 1/sqrt at the minimum of GELU
            weight = 2 * (stop - start) * u * w * post.activation_density(0, c, v)
            mass, mean = mass + weight.sum(), mean + weight @ v
        assert mass == pytest.approx(1, abs=1e-7)
        assert mean == pytest.approx(post.codes[0].activation[c], abs=1e-7)


def test_densities_given_a_readout_and_marginal(redundant, analog):
    z = np.linspace(-3, 3, 7)
    code = redundant.codes[2]
    given_code = redundant.preactivation_density(code, "2", z)
    assert np.array_equal(given_code, redundant.preactivation_density(code.readout, 1, z))
    assert np.array_equal(given_code, redundant.preactivation_density("1-0-1", 1, z))
    marginal = sum(c.weight * redundant.preactivation_density(c, 1, z) for c in redundant.codes)
    assert redundant.preactivation_density(None, 1, z) == pytest.approx(marginal, abs=1e-14)
    a = np.array([0.3, -0.2, 0.5])
    mean = analog.task.targets[1] @ np.linalg.inv(analog.readout_covariance) @ a  # P(z|a) = N(Y U^{-1} a, K_0)
    assert analog.preactivation_density(a, 1, z) == pytest.approx(stats.norm.pdf(z, mean), abs=1e-13)
    total = stats.norm.pdf(z, scale=math.sqrt(analog.kernel().diagonal[1]))
    assert analog.preactivation_density(None, 1, z) == pytest.approx(total, abs=1e-13)


def test_readout_density_is_normalised_at_finite_p_and_gaussian(finite, analog):
    a = np.linspace(-7, 7, 4001)
    density = finite.readout_density(a[:, None])
    assert density.sum() * (a[1] - a[0]) == pytest.approx(1, abs=1e-9)
    assert density[::-1] == pytest.approx(density, rel=1e-6)  # codes and complements
    mass = density[a > 0].sum() * (a[1] - a[0])
    assert mass == pytest.approx(finite.codes[0].weight, abs=1e-6)
    points = np.random.default_rng(0).normal(size=(5, 3))
    expected = stats.multivariate_normal(np.zeros(3), analog.readout_covariance).pdf(points)
    assert analog.readout_density(points) == pytest.approx(expected, rel=1e-12)
    assert analog.readout_density(points[0]).shape == ()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda post: post.readout_density([1.0, 1.0, 1.0]), "sum of deltas.*finite n_samples"),
        (lambda post: post.readout_density([1.0, 1.0]), r"shape \(..., m\) with m = 3, got \(2,\)"),
        (lambda post: post.preactivation_density("010", 0, [0.0]), "no code '010'; the codes are 011, 110, 101, 111"),
        (lambda post: post.preactivation_density(4, 0, [0.0]), "no code number 4; there are 4 codes"),
        (lambda post: post.preactivation_density(-1, 0, [0.0]), "no code number -1"),
        (lambda post: post.preactivation_density(0, 3, [0.0]), r"no class 3; give an index 0..2"),
        (lambda post: post.preactivation_density(0, "4", [0.0]), "no class '4'"),
        (lambda post: post.preactivation_density([1.0], 0, [0.0]), r"shape \(3,\), got \(1,\)"),
        (lambda post: post.activation_density(0, 0, [math.nan]), "grid must be finite"),
        (lambda post: post.sample_neurons(0), "n must be an integer >= 1, got 0"),
        (lambda post: post.sample_neurons(2.5), "n must be an integer >= 1, got 2.5"),
        (lambda post: post.sample_neurons(9, samples_per_class=[1, 2]), "one integer or 3"),
        (lambda post: post.sample_neurons(9, samples_per_class=0), "samples_per_class must be an integer >= 1"),
    ],
)
def test_bad_questions_are_refused_in_words(redundant, call, words):
    with pytest.raises(ValueError, match=words):
        call(redundant)


def test_a_pattern_of_two_codes_is_ambiguous(redundant):
    s = redundant.solution
    twice = make("sigmoid", redundant.task, s.t, s.level, s.readout[[1, 1, 0]], np.full(3, 1 / 3))
    with pytest.raises(ValueError, match="2 codes have the pattern '110'; give the index"):
        twice.preactivation_density("110", 0, [0.0])


def test_a_singular_gaussian_has_no_density(analog):
    flat = make(
        "linear",
        analog.task,
        analog.solution.t,
        0.0,
        np.zeros((0, 3)),
        np.zeros(0),
        gaussian_covariance=np.diag([1.0, 1, 0]),
    )
    with pytest.raises(ValueError, match="singular"):
        flat.readout_density([0.0, 0.0, 0.0])


# ---- drawn neurons -------------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["redundant", "sparse", "analog"])
def test_a_drawn_network_does_the_task(request, name):
    """f = (1/N) sum a phi(z) is within a few standard errors of y on every sample shown."""
    post = request.getfixturevalue(name)
    n = 1500
    neurons = post.sample_neurons(n, rng=7, samples_per_class=[2, 3, 1])
    assert neurons.labels.tolist() == [0, 0, 1, 1, 1, 2]
    assert neurons.readouts.shape == (n, 3)
    assert neurons.activations == pytest.approx(post.network.activation(neurons.preactivations), abs=0)
    terms = neurons.readouts[:, None, :] * neurons.activations[:, :, None]
    error = terms.std(axis=0) / math.sqrt(n)
    assert below((neurons.output - post.predictions[neurons.labels]) / error)


@pytest.mark.statistical
def test_preactivations_are_drawn_from_their_density(redundant, sparse):
    for phi, post in ((sigmoid, redundant), (relu, sparse)):
        code = post.codes[0]
        neurons = post.sample_neurons(60, rng=3, samples_per_class=200)
        rows, columns = neurons.code == 0, neurons.labels == 0
        z = neurons.preactivations[np.ix_(rows, columns)].ravel()
        kappa = code.readout @ post.solution.t[0]
        grid = np.linspace(-9, 9, 6001)
        cdf = np.cumsum(stats.norm.pdf(grid) * np.exp(kappa * phi(grid) - cumulant(phi, kappa)[0]))
        pvalue = stats.kstest(np.interp(z, grid, cdf / cdf[-1]), "uniform").pvalue
        assert below(-math.log10(pvalue), 9.0, "-log10 p")


@pytest.mark.statistical
def test_outliers_are_among_the_neurons_with_scale_sqrt_n(sparse):
    n = 900
    neurons = sparse.sample_neurons(n, rng=0, samples_per_class=2)
    assert neurons.part_names == ("bulk", "outlier 1-0-0", "outlier 0-1-0", "outlier 0-0-1")
    assert np.bincount(neurons.code).tolist() == [n - 3, 1, 1, 1]
    assert neurons.readouts[-3] == pytest.approx(30 * sparse.outliers[0].readout, abs=1e-12)
    assert below(neurons.preactivations[-3, neurons.labels == 0] - 30 * sparse.outliers[0].preactivation[0])
    with pytest.raises(ValueError, match="cannot hold 3 outliers"):
        sparse.sample_neurons(3)


def test_drawing_is_reproducible_and_follows_spec_7(redundant):
    first = redundant.sample_neurons(20, rng=5)
    again = redundant.sample_neurons(20, rng=np.random.default_rng(5))
    seeded = redundant.sample_neurons(20, rng=np.random.SeedSequence(5))
    assert np.array_equal(first.preactivations, again.preactivations)
    assert np.array_equal(first.preactivations, seeded.preactivations)
    assert not np.array_equal(first.preactivations, redundant.sample_neurons(20, rng=6).preactivations)
    assert np.bincount(first.labels).tolist() == [50, 25, 25]


@pytest.mark.statistical
def test_readouts_spread_at_finite_p(finite):
    neurons = finite.sample_neurons(40, rng=0, samples_per_class=1)
    assert np.unique(neurons.readouts).size == 40
    distance = np.abs(np.abs(neurons.readouts[:, 0]) - finite.codes[0].readout[0])
    assert below(distance / math.sqrt(finite.codes[0].covariance[0, 0]))


def test_fractions_by_pattern_leave_out_strays_only():
    """A few neurons may follow none of the codes; many would make another problem of it, without a word."""
    codes = mf.solve(mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5)).codes
    (first, second), rest = [code.pattern for code in codes[:2]], len(codes) - 2
    found = by_pattern(codes, {"-".join(first): 30, second: 10, "000": 1})
    np.testing.assert_allclose(found, [0.75, 0.25, *[0.0] * rest])
    with pytest.raises(ValueError, match=r"23.1% of the neurons have codes that the solution lacks, 000; there are"):
        by_pattern(codes, {first: 30, second: 10, "000": 12})
    with pytest.raises(ValueError, match="none of 000 is a code"):
        by_pattern(codes, {"000": 1})
