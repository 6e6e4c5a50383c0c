"""The posterior object, on solutions found here by an independent method (NumPy quadrature and SciPy roots)."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import minimize, root
from scipy.special import erf

from meanfield.archive import read_archive, write_archive
from meanfield.network import Network
from meanfield.posterior import SingleNeuronPosterior
from meanfield.result import Certificate, Solution
from meanfield.task import class_task

P3 = np.array([0.5, 0.25, 0.25])
CERTIFICATE = Certificate(1e-15, 1e-12, 1e-9, True, True, 0, 100)
_X, _W = np.polynomial.legendre.leggauss(400)
_Z = np.concatenate([8 * _X - 8, 8 * _X + 8])  # two panels, a kink at 0 lies between them


def sigmoid(z):
    return 0.5 * (1 + erf(math.sqrt(math.pi) * z / 2))


def relu(z):
    return np.maximum(z, 0)


def cumulant(phi, kappa):
    """G, G', G'' by Gauss-Legendre quadrature, k = 1."""
    value = phi(_Z)
    weight = np.concatenate([8 * _W, 8 * _W]) * stats.norm.pdf(_Z) * np.exp(np.asarray(kappa)[..., None] * value)
    total = weight.sum(-1)
    mean = (weight * value).sum(-1) / total
    return np.log(total), mean, (weight * value**2).sum(-1) / total - mean**2


def make(name, task, t, level, readout, weight, *, tau=0.0, direction=(), outlier=(), **more):
    p, y = task.fractions, task.targets
    objective = level - p @ (t * y).sum(1) + 0.5 * tau * p @ (t**2).sum(1)
    solution = Solution(
        t, objective, level, readout, weight, np.asarray(direction), np.asarray(outlier), CERTIFICATE,
        n_samples=task.n_samples, tau=tau, **more,
    )  # fmt: skip
    return SingleNeuronPosterior(Network(name), task, tau, solution)


@pytest.fixture(scope="module")
def redundant():
    """Sigmoid, y_- = 0.5: reference value of single_layer.md, polished on the KKT system."""
    task = class_task(P3, off=0.5)
    y = task.targets
    a = np.array(
        [[-0.3275, 1.6126, 1.6126], [1.7322, 1.5739, -0.3357], [1.7322, -0.3357, 1.5739], [1.164, 1.3449, 1.3449]]
    )
    weight = np.array([0.3316, 0.3154, 0.3154, 0.0376])

    def dual(t):
        g, g1, _ = cumulant(sigmoid, a @ t.reshape(3, 3).T)
        gradient = P3[:, None] * (np.einsum("n,nm,nc->cm", weight, a, g1) - y)
        return weight @ g @ P3 - P3 @ (t.reshape(3, 3) * y).sum(1), gradient.ravel()

    def kkt(x):
        t, a, weight, level = x[:9].reshape(3, 3), x[9:21].reshape(4, 3), x[21:25], x[25]
        g, g1, _ = cumulant(sigmoid, a @ t.T)
        return np.concatenate([
            (g1 * P3 @ t - a).ravel(),
            g @ P3 - 0.5 * (a**2).sum(1) - level,
            (np.einsum("n,nm,nc->cm", weight, a, g1) - y).ravel(),
            [weight.sum() - 1],
        ])  # fmt: skip

    t = minimize(dual, np.zeros(9), jac=True, method="BFGS", options={"gtol": 1e-7}).x
    found = root(
        kkt, np.concatenate([t, a.ravel(), weight, [0.4]]), method="lm", options={"xtol": 1e-15, "ftol": 1e-15}
    )
    assert np.abs(found.fun).max() < 1e-13
    x = found.x
    return make("sigmoid", task, x[:9].reshape(3, 3), x[25], x[9:21].reshape(4, 3), x[21:25])


@pytest.fixture(scope="module")
def sparse():
    """ReLU, y_- = 0: bulk and three outliers, from y_c = a_0 G' + w_c t_c, p_c |t_c|^2 = 1, a_0 = sum p_c G' t_c."""
    task = class_task(P3)

    def kkt(x):
        t, a, w = x[:9].reshape(3, 3), x[9:12], x[12:]
        _, g1, _ = cumulant(relu, t @ a)
        targets = np.outer(g1, a) + w[:, None] * t
        return np.concatenate([P3 * g1 @ t - a, (targets - task.targets).ravel(), P3 * (t**2).sum(1) - 1])

    u = np.array([[0.99, -0.11, -0.11], [-0.16, 0.98, -0.09], [-0.16, -0.09, 0.98]])
    start = np.concatenate([(u / np.sqrt(P3)[:, None]).ravel(), [0.31, 0.17, 0.17], [0.6, 0.47, 0.47]])
    found = root(kkt, start, method="lm", options={"xtol": 1e-15, "ftol": 1e-15})
    assert np.abs(found.fun).max() < 1e-13
    t, a, w = found.x[:9].reshape(3, 3), found.x[9:12], found.x[12:]
    g, _, _ = cumulant(relu, t @ a)
    direction = t / np.linalg.norm(t, axis=1)[:, None]
    # abar phi(zbar) = sqrt(w_o) u (sqrt(w_o) u.t) = w_o t
    return make("relu", task, t, P3 @ g - 0.5 * a @ a, a[None], np.ones(1), direction=direction, outlier=w)


@pytest.fixture(scope="module")
def analog():
    """Linear: U^2 = sigma_a^2 Y^T K_0^{-1} Y / P at large P, t = K_0^{-1} Y U^{-1} (linear.md, L = 1)."""
    task = class_task(P3, off=-0.3)
    y = task.targets
    value, vector = np.linalg.eigh(y.T @ (P3[:, None] * y))
    u = (vector * np.sqrt(value)) @ vector.T
    t = y @ np.linalg.inv(u)
    return make("linear", task, t, 0.0, np.zeros((0, 3)), np.zeros(0), gaussian_covariance=u)


@pytest.fixture(scope="module")
def finite():
    """Sigmoid, two classes, one output, P = 30: J minimised with the readout integral done by a fine Riemann sum."""
    n, sigma = 30.0, 1.0
    task = class_task(targets=[1.0, -1.0], n_samples=n)
    a = np.linspace(-7, 7, 401)

    def h(t):
        return -0.5 * a**2 / sigma**2 + cumulant(sigmoid, a[:, None] * t)[0] @ task.fractions

    def dual(t):
        exponent = n * h(t)
        top = exponent.max()
        integral = np.log(np.exp(exponent - top).sum() * (a[1] - a[0])) + top
        integral += 0.5 * math.log(n / (2 * math.pi * sigma**2))
        return integral / n - task.fractions @ (t * task.targets[:, 0])

    # By symmetry t = (t, -t) and the two codes have equal mass.
    options = {"xatol": 1e-9, "fatol": 1e-14}
    best = minimize(lambda x: dual(np.array([x[0], -x[0]])), [4.0], method="Nelder-Mead", options=options)
    t = np.array([best.x[0], -best.x[0]])
    density = np.exp(n * (h(t) - h(t).max()))
    right = density * (a > 0) / (density * (a > 0)).sum()
    mean = right @ a
    covariance = np.full((2, 1, 1), right @ (a - mean) ** 2)
    return make(
        "sigmoid", task, t[:, None], best.fun + task.fractions @ (t * task.targets[:, 0]), np.array([[mean], [-mean]]),
        np.array([0.5, 0.5]), covariance=covariance,
    )  # fmt: skip


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


def test_readout_covariance_is_that_of_drawn_neurons(redundant, sparse, analog, finite):
    for post in (redundant, sparse, analog, finite):
        neurons = post.sample_neurons(5000, rng=1, samples_per_class=1)
        spread = np.trace(post.readout_covariance)
        drawn = np.atleast_2d(np.cov(neurons.readouts.T, bias=True))
        assert np.abs(drawn - post.readout_covariance).max() < 5 * spread / math.sqrt(5000)
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
    assert (np.abs(neurons.output - post.predictions[neurons.labels]) < 5 * error).all()


def test_preactivations_are_drawn_from_their_density(redundant, sparse):
    for phi, post in ((sigmoid, redundant), (relu, sparse)):
        code = post.codes[0]
        neurons = post.sample_neurons(60, rng=3, samples_per_class=200)
        rows, columns = neurons.code == 0, neurons.labels == 0
        z = neurons.preactivations[np.ix_(rows, columns)].ravel()
        kappa = code.readout @ post.solution.t[0]
        grid = np.linspace(-9, 9, 6001)
        cdf = np.cumsum(stats.norm.pdf(grid) * np.exp(kappa * phi(grid) - cumulant(phi, kappa)[0]))
        assert stats.kstest(np.interp(z, grid, cdf / cdf[-1]), "uniform").pvalue > 1e-3


def test_outliers_are_among_the_neurons_with_scale_sqrt_n(sparse):
    n = 900
    neurons = sparse.sample_neurons(n, rng=0, samples_per_class=2)
    assert neurons.part_names == ("bulk", "outlier 1-0-0", "outlier 0-1-0", "outlier 0-0-1")
    assert np.bincount(neurons.code).tolist() == [n - 3, 1, 1, 1]
    assert neurons.readouts[-3] == pytest.approx(30 * sparse.outliers[0].readout, abs=1e-12)
    assert neurons.preactivations[-3, neurons.labels == 0] == pytest.approx(
        30 * sparse.outliers[0].preactivation[0], abs=5
    )
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


def test_readouts_spread_at_finite_p(finite):
    neurons = finite.sample_neurons(40, rng=0, samples_per_class=1)
    assert np.unique(neurons.readouts).size == 40
    distance = np.abs(np.abs(neurons.readouts[:, 0]) - finite.codes[0].readout[0])
    assert distance.max() < 5 * math.sqrt(finite.codes[0].covariance[0, 0])


# ---- printing and saving -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["redundant", "sparse", "analog", "finite"])
def test_save_and_load(request, tmp_path, name):
    post = request.getfixturevalue(name)
    path = post.save(tmp_path / "posterior")
    assert path.name == "posterior.npz"
    assert [p.name for p in tmp_path.iterdir()] == ["posterior.npz"]
    back = SingleNeuronPosterior.load(path)
    assert (back.network, back.task, back.tau) == (post.network, post.task, post.tau)
    assert (back.certificate, back.status, back.objective) == (post.certificate, post.status, post.objective)
    assert repr(back) == repr(post)
    assert back.table() == post.table()
    for key, value in post.order_parameters.items():
        assert np.array_equal(back.order_parameters[key], value)


def test_loading_something_else_is_refused(tmp_path):
    other = write_archive(tmp_path / "other.npz", "phase diagram", {}, {"x": np.zeros(2)})
    with pytest.raises(ValueError, match="holds a phase diagram, expected a posterior"):
        SingleNeuronPosterior.load(other)
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with pytest.raises(ValueError, match="not a file written by meanfield"):
        SingleNeuronPosterior.load(tmp_path / "junk.npz")
    with pytest.raises(FileNotFoundError):
        SingleNeuronPosterior.load(tmp_path / "nowhere.npz")


def test_objects_are_never_pickled(tmp_path):
    with pytest.raises(ValueError, match="pickle"):
        write_archive(tmp_path / "bad", "posterior", {}, {"x": np.array([{}], dtype=object)})
    assert list(tmp_path.iterdir()) == []
    path = write_archive(tmp_path / "good", "posterior", {"big": math.inf}, {})
    assert read_archive(path, "posterior") == ({"big": math.inf}, {})


def test_table_of_codes(redundant):
    text = redundant.table()
    assert "redundant coding: sigmoid, 3 classes (0.5, 0.25, 0.25), one-hot on 1, off 0.5" in text
    assert "0-1-1   0.331569 |   -0.3275   1.6126   1.6126 |    0.1996   0.9412   0.9412" in text
    assert "min J = -3.754332057" in text
    assert "no better readout exists (100 boxes), weights unique" in text
    assert max(map(len, text.splitlines())) <= 120


def test_tables_of_the_other_schemes(sparse, analog):
    assert "outlier 1-0-0   0.591951 |    0.7596  -0.0865  -0.0865 |    1.0881   0.0000   0.0000" in sparse.table()
    assert sparse.table().count("bulk ") == 1
    assert "readouts ~ N(0, U)" in analog.table()


def test_reprs_are_short(redundant, sparse, analog):
    assert repr(redundant).startswith("<SingleNeuronPosterior: redundant, 4 codes 0-1-1 (0.332), 1-1-0 (0.315)")
    assert "bulk and outliers 1-0-0 (0.592)" in repr(sparse)
    assert "Gaussian readouts of rank 3" in repr(analog)
    for post in (redundant, sparse, analog):
        assert len(repr(post)) < 160
        assert "samples" in repr(post.sample_neurons(10, rng=0))
    assert repr(redundant.codes[0]) == "Code(0-1-1, weight=0.331569, readout=(-0.3275, 1.6126, 1.6126))"


def test_order_parameters_are_named(redundant, sparse, analog):
    assert set(redundant.order_parameters) == {"t", "level", "readout", "weight"}
    assert set(sparse.order_parameters) >= {"outlier_direction", "outlier_weight"}
    assert set(analog.order_parameters) == {"t", "level", "covariance"}
