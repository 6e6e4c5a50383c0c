"""Three classes of any targets: kernels that need two fields which the classes share."""

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.deep.codes import words
from meanfield.theories.deep.codes.states import layer_states
from meanfield.theories.deep.codes.words import WordLaw
from meanfield.theories.deep.layers import fields
from meanfield.theories.deep.layers.extent import extent
from meanfield.theories.deep.layers.fields import shared_field, shared_plane
from meanfield.theories.deep.layers.layer import Layer
from meanfield.theories.deep.layers.rules import CHECK, COARSE, FINE, NotCovered, Setting
from meanfield.theories.deep.layers.site import site_rule, site_values
from meanfield.theories.deep.layers.stiffness import Region
from meanfield.theories.deep.layers.sums import Sums

PHI = mf.Network("sigmoid", 2).activation
# Classes on a line: the middle one is closer to both others than these are to each other.
LINE = np.array([[0.29, 0.19, 0.24], [0.19, 0.30, 0.26], [0.24, 0.26, 0.26]])


def test_any_kernel_of_three_classes_splits():
    rng = np.random.default_rng(0)
    for _ in range(20):
        root = rng.normal(size=(3, 3))
        covariance = root @ root.T
        own, u = shared_plane(covariance)
        assert u.shape == (3, 2)
        assert (own >= 0.0).all()
        np.testing.assert_allclose(np.diag(own) + u @ u.T, covariance, atol=1e-12 * np.trace(covariance))


def test_one_field_does_not_do_on_a_line():
    with pytest.raises(NotCovered, match="more than one field"):
        shared_field(LINE)
    four = np.diag([1.0, 2.0, 3.0, 4.0]) + 0.1 * np.outer([1.0, 2.0, 0.5, -1.0], [1.0, 2.0, 0.5, -1.0])
    with pytest.raises(NotCovered, match="more than two fields"):
        shared_plane(four)


def setting(covariance):
    root = 0.4 * np.array([[1.0, 0.2], [-0.7, 0.5], [0.3, -0.9]])
    return Setting(root, covariance, np.array([0.08, 0.09, 0.07]), np.array([-0.1, -0.2, -0.05]))


@pytest.mark.parametrize("alike", [False, True])
def test_two_fields_agree_with_one_where_that_does(monkeypatch, alike):
    """Also where two classes have equal kernels, and so one table, but other forces: b of other ranges."""
    covariance = np.diag([0.05, 0.03, 0.06]) + np.outer([0.45, 0.5, 0.4], [0.45, 0.5, 0.4])
    n, given = np.array([20.0, 12.0, 16.0]), setting(covariance)
    if alike:
        covariance = np.diag([0.05, 0.05, 0.06]) + np.outer([0.45, 0.45, 0.4], [0.45, 0.45, 0.4])
        n[1], root = n[0], given.root * np.array([[1.4], [0.5], [1.0]])
        given = Setting(root, covariance, given.d[[0, 0, 2]], given.delta[[0, 0, 2]])
    one, _ = Layer(PHI, n, FINE).evaluate(given, curvature=True)
    asked = []

    def refused(value):
        asked.append(value)
        raise NotCovered("one is not enough")

    monkeypatch.setattr(fields, "shared_field", refused)
    two, _ = Layer(PHI, n, FINE).evaluate(given, curvature=True)
    assert asked
    assert two.log_z == pytest.approx(one.log_z, abs=1e-8)
    for name in ("kernel", "d", "tilde", "delta", "curvature"):
        have, wanted = getattr(two, name), getattr(one, name)  # some entries are small differences of large ones
        np.testing.assert_allclose(have, wanted, rtol=1e-7, atol=1e-8 * max(1.0, np.abs(wanted).max()))


def test_averages_against_gauss_hermite():
    """ln Z of three classes on a line by a tensor product over h, given each of few conjugate fields."""
    n, given = np.array([6.0, 5.0, 4.0]), setting(LINE)._replace(root=np.array([[0.4], [-0.3], [0.2]]))
    layer = Layer(PHI, n, FINE)
    beta = np.array([[0.0], [1.0], [-1.5]])
    layer.evaluate(given)
    found = layer.log_density(given, beta)
    x, w = np.polynomial.hermite_e.hermegauss(24)
    z, wz = np.polynomial.hermite_e.hermegauss(40)
    grid = np.stack(np.meshgrid(x, x, x, indexing="ij"), -1).reshape(-1, 3)
    weight = np.prod(np.stack(np.meshgrid(*[w / w.sum()] * 3, indexing="ij"), -1), axis=-1).ravel()
    h = grid @ np.linalg.cholesky(LINE).T
    exact = []
    for b in beta @ given.root.T:
        total = np.zeros(len(h))
        for c in range(3):
            value = PHI(h[:, c, None] + np.sqrt(given.d[c]) * z)
            tilt = np.exp(b[c] * value + 0.5 * given.delta[c] * value**2)
            total += n[c] * np.log(tilt @ wz / wz.sum())
        exact.append(np.log(weight @ np.exp(total)))
    exact = np.array(exact) - 0.5 * beta[:, 0] ** 2
    np.testing.assert_allclose(found - found[0], exact - exact[0], atol=1e-6)


@pytest.fixture(scope="module")
def solved():
    task = mf.class_task([0.3, 0.4, 0.3], targets=[[1.0], [-0.3], [0.2]], n_samples=60)
    return mf.solve(mf.Network("sigmoid", 2), task, 0.1)


def test_three_targets_on_a_line(solved):
    assert solved.certificate.residual < 1e-6
    assert solved.certificate.inner_curvature > 0.0 > solved.certificate.outer_curvature
    with pytest.raises(NotCovered):  # by one shared field alone there was no solution
        shared_field(solved.solution.kernel[0])
    other = Layer(PHI, np.array([18.0, 24.0, 18.0]), CHECK, last=True)
    order = solved.solution
    root = np.sqrt(solved.network.readout_variance(60)) * order.t
    found, _ = other.evaluate(Setting(root, np.array(order.kernel[0]), np.array(order.d[0]), np.zeros(3)))
    np.testing.assert_allclose(order.kernel[1], found.kernel, rtol=1e-6)
    np.testing.assert_allclose(order.tilde[0], found.tilde, rtol=1e-5, atol=1e-8)


def test_neurons_drawn_with_two_fields(solved):
    """Means over drawn neurons against the kernel of the theory, within five standard errors."""
    neurons = solved.sample_neurons(400, rng=0, samples_per_class=[2, 2, 2])
    activation = neurons.activations
    for one, other in ((0, 2), (0, 4), (2, 4), (0, 1)):
        product = activation[:, one] * activation[:, other]
        error = product.std() / np.sqrt(len(product))
        c, e = neurons.labels[one], neurons.labels[other]
        assert abs(product.mean() - solved.solution.kernel[1][c, e]) < 5.0 * error


@pytest.mark.parametrize("phi", ["tanh", "erf"])
def test_odd_activations_have_no_common_part_to_start_from(phi):
    """Under the prior of an odd phi a field that is the same for all classes costs as much as any other."""
    p, y = np.array([0.28, 0.31, 0.41]), [[0.1257], [-0.1321], [0.6404]]
    task = mf.class_task(fractions=p, targets=y, n_samples=100)
    one = mf.solve(mf.Network(phi, depth=2), task, tau=0.1)
    assert one.status == "optimal"
    turned = mf.class_task(fractions=p, targets=-np.array(y), n_samples=100)
    other = mf.solve(one.network, turned, tau=0.1)
    np.testing.assert_allclose(other.solution.kernel, one.solution.kernel, rtol=1e-9, atol=1e-12)


def test_a_class_without_stiffness_is_tabulated_where_its_nodes_are(monkeypatch):
    """The branch without codes of three one-hot classes: the third class answers its field by less than no force."""
    n = np.array([1501.4, 1522.8, 655.8])
    kernel = np.array(
        [
            [0.25497266, 0.25523995, 0.24175962],
            [0.25523995, 0.25550855, 0.24201113],
            [0.24175962, 0.24201113, 0.22934929],
        ]
    )
    t = np.array([[2.632, -1.640, -0.748], [-1.618, 2.610, -0.748], [-1.612, -1.633, 3.503]])
    given = Setting(np.sqrt(6.114e-4) * t, kernel, np.array([0.10448803, 0.10447159, 0.10472216]), np.zeros(3))
    planes, made = [], fields._plane_fields

    def kept(*given):
        planes.append(made(*given).plane)
        return made(*given)

    monkeypatch.setattr(fields, "_plane_fields", kept)
    found, _ = Layer(PHI, n, COARSE).evaluate(given, curvature=True)
    for plane in planes:
        for rows, own in zip(plane.values, plane.own, strict=True):
            assert np.ptp(rows.b) < 3.0 * np.ptp(own)
    monkeypatch.setattr(fields, "_CLOSE", 0.05)
    monkeypatch.setattr(fields, "_VALUES", 0.25)
    finer, _ = Layer(PHI, n, COARSE).evaluate(given, curvature=True)
    assert found.log_z == pytest.approx(finer.log_z, abs=1e-8)
    for name in ("kernel", "d", "tilde", "delta", "curvature"):
        np.testing.assert_allclose(getattr(found, name), getattr(finer, name), rtol=1e-6, atol=1e-7)


def test_lattices_of_fields_reach_all_values_that_are_read_between():
    """A middle layer near its instability, nearly two-dimensional kernels: lattices of h ended where there was weight
    and class tables were read across the end. The coarse rule had ln Z = 67.1, and 244 nodes for 1,253."""
    frame = np.array([[4.6150e-04, -2.9070e-05, -4.1234e-04], [-2.9070e-05, 9.3564e-04, -5.7333e-06],
                      [-4.1234e-04, -5.7333e-06, 3.7486e-04]])  # fmt: skip
    covariance = np.array([[9.13577e-05, 2.09654e-06, -9.22730e-05], [2.09654e-06, 2.50512e-04, -1.30497e-05],
                           [-9.22730e-05, -1.30497e-05, 9.37560e-05]])  # fmt: skip
    delta = np.array([-1.413e-4, -1.413e-4, -6.747e-5])
    there = Setting(frame, covariance, np.array([0.2015, 0.2014, 0.2015]), delta)
    n = 286794.0 * np.array([0.40692602, 0.27934227, 0.31373171])
    phi = mf.Network("tanh", 3).activation
    found = [Layer(phi, n, rule).evaluate(there)[0] for rule in (COARSE, COARSE._replace(beta=1.1, rows=0.5))]
    assert abs(found[0].log_z - found[1].log_z) < 1e-4
    assert np.abs(found[0].kernel - found[1].kernel).max() < 1e-4 * np.abs(found[1].kernel).max()


@pytest.mark.parametrize(
    ("name", "n", "d", "variance", "b"),
    [
        ("hard_tanh", 50_000.0, 0.25, 0.02, (5.5, 7.0)),
        ("erf", 1260.0, 0.06, 0.14, (0.3, 5.4)),
        ("sigmoid", 30.0, 0.08, 0.05, (-2.0, 3.0)),
    ],
)
def test_a_class_reaches_as_far_as_it_has_weight(name, n, d, variance, b):
    """Ends of the field against a fine grid: the force at its largest would carry it 200 to 10,000 times as far."""
    phi = mf.Network(name, 2).activation
    centres, depth = (-2.0, 1.5), 30.0
    wide = np.linspace(-12.0, 12.0, 24_001)
    values = site_rule(phi, d, -12.0, 12.0, 0.45, max(np.abs(b)))
    fields_b = np.linspace(*b, 7)
    g = n * site_values(values, fields_b, wide, d, 0.0)
    force = (np.diff(g, axis=1) / (wide[1] - wide[0])).min(), (np.diff(g, axis=1) / (wide[1] - wide[0])).max()
    stiffest = float(-np.diff(g, 2, axis=1).min() / (wide[1] - wide[0]) ** 2)
    tail = 1.3 * np.sqrt(2.0 * depth * variance)
    low, high = extent(phi, n, (d, 0.0), b, centres, variance, depth, Region(stiffest, force))
    inside = []
    for centre in centres:
        weight = g - (wide - centre) ** 2 / (2.0 * variance)
        inside.append(wide[(weight >= weight.max(axis=1, keepdims=True) - depth).any(axis=0)])
    true_low, true_high = inside[0].min(), inside[1].max()
    assert low <= true_low
    assert high >= true_high
    assert high - low < max(true_high, centres[1]) - min(true_low, centres[0]) + 2.0 * tail


# Own fields of 5e-3, fields of two classes at an angle, that of the third one between them.
CUT = np.diag([2e-5, 3e-5, 2e-5]) + 0.25 * np.ones((3, 3)) + np.outer([0.17, -0.15, 0.02], [0.17, -0.15, 0.02])


def plain_words(n, given, betas, step):
    """Parts (N, 8) of the words at nodes, and means of the squares of h (N, 3), on a grid along the axes of
    the covariance of h, every line of which has an offset of its own."""
    values, vectors = np.linalg.eigh(given.covariance)
    narrow, weight = np.polynomial.hermite_e.hermegauss(5)
    middle, broad = np.arange(-6.0, 6.0, 5.0 * step), np.arange(-6.0, 6.0, step)
    index = np.stack(np.meshgrid(*(np.arange(len(x)) for x in (narrow, middle, broad)), indexing="ij"), -1)
    i, j, k = index.reshape(-1, 3).T
    x = np.column_stack([narrow[i], middle[j], broad[k] + step * ((0.618034 * j + 0.754878 * i) % 1.0)])
    log_prior = np.log(weight[i]) - 0.5 * (x[:, 1:] ** 2).sum(axis=1)
    h = x * np.sqrt(values) @ vectors.T
    z, wz = np.polynomial.hermite_e.hermegauss(50)
    at = np.linspace(h.min(), h.max(), 2001)
    parts, squares = [], []
    for b in betas @ given.root.T:
        log, word = log_prior.copy(), np.zeros(len(h), dtype=np.int64)
        for c in range(3):
            value = PHI(at[:, None] + np.sqrt(given.d[c]) * z)
            law = np.exp(b[c] * value + 0.5 * given.delta[c] * value**2) * wz
            log += n[c] * np.interp(h[:, c], at, np.log(law.sum(axis=1)))
            mean = (law * value).sum(axis=1) / law.sum(axis=1)
            word = 2 * word + (np.interp(h[:, c], at, mean) > 0.5)
        w = np.exp(log - log.max())
        w /= w.sum()
        parts.append(np.bincount(word, w, 8))
        squares.append(w @ h**2)
    return np.array(parts), np.array(squares)


def test_words_of_neurons_near_cuts():
    """Parts of a node's neurons, and the law of a field of those with a word, and of neurons that are drawn."""
    given = Setting(np.array([[0.3], [-0.28], [0.02]]), CUT, np.array([0.09, 0.08, 0.1]), np.zeros(3))
    n, betas = np.array([14.0, 12.0, 14.0]), np.array([[0.0], [0.7], [-2.0]])
    parts, _ = plain_words(n, given, betas, 0.01)
    assert (parts.max(axis=1) < 0.75).all()  # whole nodes would not do
    law = WordLaw(PHI, n, given, betas)
    found = law.of_words()
    np.testing.assert_allclose(np.array([found[f"{word:03b}"].part for word in range(8)]).T, parts, atol=3e-4)
    h, weight, _ = law.of_field("101", 2)
    np.testing.assert_allclose(weight.sum(axis=1), parts[:, 0b101], atol=3e-4)
    assert (weight @ (h < -0.05) < 1e-6).all()  # where the third class is off
    layer = Layer(PHI, n, FINE, last=True)
    layer.evaluate(given)
    b, drawn, row = layer.draw(given, np.repeat(betas[:1], 4000, axis=0), np.random.default_rng(0))
    assert len(b) == len(drawn) == len(row) == 4000
    _, spread = plain_words(n, given, b[::400, :1] / given.root[0, 0], 0.05)
    np.testing.assert_allclose((drawn**2).mean(axis=0), spread.mean(axis=0), rtol=0.1)
    apart = drawn[:, 0] - drawn[:, 1]
    counts = np.histogram(apart, np.linspace(-0.2, 0.2, 21))[0]
    assert counts.min() > 0.4 * counts.max()  # no comb


def test_words_that_are_not_known_are_bounded(solved, monkeypatch):
    """Codes of whole nodes are off by less than what the states say; densities of all codes make that of all."""
    system, order = solved._system, solved._order
    known = layer_states(system, order, 1, *solved._nodes(1))
    z = np.linspace(-2.0, 2.0, 21)
    parts = [code.weight * solved.preactivation_density(code, 2, z) for code in solved.codes]
    np.testing.assert_allclose(sum(parts), solved.preactivation_density(None, 2, z), atol=1e-5)
    monkeypatch.setattr(words, "_MOST", 1)
    found = layer_states(system, order, 1, *solved._nodes(1))
    assert not known.unsure.any()
    assert (found.unsure > 0.01).any()
    shares = dict(zip(known.patterns, known.share))
    open_ones = found.share @ found.unsure
    for pattern, share in zip(found.patterns, found.share):
        assert abs(shares[pattern] - share) <= open_ones
    assert sum(share for pattern, share in shares.items() if pattern not in found.patterns) <= open_ones


@pytest.mark.parametrize("own", [1e-16, 1e-9, 1e-7])
def test_a_class_whose_own_field_is_narrow_needs_few_nodes(own, monkeypatch):
    """Against nine of them: opposite classes and a third of small fields, whose kernel is nearly of rank two."""
    u = np.array([[1.0, -0.9, -0.02], [0.05, 0.05, 0.001]]).T * 0.3
    covariance = u @ u.T + own * np.diag(np.diag(u @ u.T))
    given = Setting(np.array([[0.2], [-0.18], [-0.004]]), covariance, np.full(3, 0.3), np.zeros(3))
    n = np.array([60.0, 70.0, 80.0])
    few = Layer(mf.activation("tanh"), n, FINE, last=True).evaluate(given)[0]
    monkeypatch.setattr("meanfield.theories.deep.layers.fields._FEW_DO", [0.0] * 8)
    nine = Layer(mf.activation("tanh"), n, FINE, last=True).evaluate(given)[0]
    assert few.log_z == pytest.approx(nine.log_z, abs=1e-10)
    np.testing.assert_allclose(few.kernel, nine.kernel, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(few.tilde, nine.tilde, rtol=1e-8, atol=1e-8)


def test_a_weight_that_is_no_number_is_said(monkeypatch):
    per_node = Sums.per_node

    def broken(self, *arguments):
        out = per_node(self, *arguments)
        out[0] = np.inf
        return out

    monkeypatch.setattr(Sums, "per_node", broken)
    given = Setting(np.array([[0.2], [-0.2]]), np.array([[0.2, -0.1], [-0.1, 0.2]]), np.full(2, 0.3), np.zeros(2))
    with pytest.raises(NotCovered, match="no number at one of its nodes"):
        Layer(mf.activation("tanh"), np.array([50.0, 50.0]), FINE, last=True).evaluate(given)
