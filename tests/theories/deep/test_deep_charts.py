"""Spacings that follow the width of a weight, and the distance of rows that follows the smoothness of a table."""

import math

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.deep.layers.charts import (
    Axis,
    Chart,
    Probes,
    fitted_axis,
    fitted_chart,
    node_probes,
    saved,
    term_probes,
    too_coarse,
    unit_chart,
)
from meanfield.theories.deep.layers.lattice import half, keys, unique
from meanfield.theories.deep.layers.layer import Layer
from meanfield.theories.deep.layers.rows import even_rows, spare
from meanfield.theories.deep.layers.rules import CHECK

SWAP = np.array([np.eye(2), [[0.0, 1.0], [1.0, 0.0]]])


def two_scales(x):
    """ln of a weight: a narrow peak at 0, broad ones at both sides."""
    return np.logaddexp(np.logaddexp(-0.5 * (x - 40.0) ** 2 / 16, -0.5 * (x + 40.0) ** 2 / 16), -0.5 * x**2)


def test_an_axis_and_its_inverse():
    for axis in (Axis(), Axis(0.0, 0.3), Axis(1.5, 0.3, 4.0)):
        v = np.linspace(-9.0, 9.0, 19)
        x = axis.at(v)
        np.testing.assert_allclose(axis.inverse(x), v, atol=1e-12)
        np.testing.assert_allclose(axis.spacing(x), axis.slope(v), rtol=1e-12)
        np.testing.assert_allclose((axis.at(v + 1e-5) - axis.at(v - 1e-5)) / 2e-5, axis.slope(v), rtol=1e-8)


@pytest.mark.parametrize("step", [0.92, 0.8])
def test_a_fitted_lattice_is_as_exact_with_fewer_values(step):
    v = step * np.arange(-80, 81)
    terms = two_scales(v)[None, :]
    probes = term_probes(terms, float(terms.max()), 35.0, Axis(), v, step)
    axis = fitted_axis(probes, centred=True, most=math.inf)
    assert not too_coarse(probes._replace(spacing=axis.spacing(probes.x)))
    assert saved(probes, axis) > 1.5
    place = step * np.arange(-80, 81)
    x = axis.at(place)
    inside = np.abs(x) < 80.0
    weight = step * axis.slope(place[inside]) * np.exp(two_scales(x[inside]))
    exact = math.sqrt(2 * math.pi) * (1 + 2 * 4)
    assert weight.sum() == pytest.approx(exact, rel=1e-8)
    assert weight @ x[inside] ** 2 == pytest.approx(math.sqrt(2 * math.pi) * (1 + 8 * (1600 + 16)), rel=1e-8)


def test_spacings_stay_below_what_is_asked_for():
    probes = Probes(np.linspace(-5, 5, 31), np.full(31, 1e-2), np.zeros(31), np.ones(31))
    assert fitted_axis(probes, centred=True, most=2.0).pace <= 2.0
    assert fitted_axis(probes, centred=True, most=math.inf).pace > 8.0


def gaussian_nodes(chart, precision, step, reach=6.0):
    index = np.array([(i, j) for i in range(-30, 31) for j in range(-30, 31)])
    v = step * (index + chart.offset(0.37))
    beta = chart.beta(v)
    heights = -0.5 * np.einsum("ki,ij,kj->k", beta, precision, beta)
    kept = heights > -0.5 * reach**2
    return index[kept], (heights + chart.log_slope(v))[kept], v[kept]


def test_probes_know_the_precision_of_a_gaussian_in_any_frame():
    precision = np.array([[0.5, 0.3], [0.3, 0.4]])
    turned = Chart(np.array([[0.6, 0.8], [-0.8, 0.6]]), (Axis(0.0, 1.3), Axis(0.0, 0.8)), np.array([False, False]))
    for chart in (unit_chart(2), turned):
        index, heights, v = gaussian_nodes(chart, precision, 0.9)
        probes = node_probes(index, heights, v, chart, 0.9)
        assert len(probes.x) > 20
        np.testing.assert_allclose(probes.precision, np.broadcast_to(precision, probes.precision.shape), atol=1e-10)


def test_a_chart_respects_an_exchange_of_classes_and_is_fine_enough():
    precision = np.array([[0.5, 0.45], [0.45, 0.5]])  # 0.05 and 0.95
    index, heights, v = gaussian_nodes(unit_chart(2), precision, 0.9)
    probes = node_probes(index, heights, v, unit_chart(2), 0.9)
    chart = fitted_chart(probes, SWAP, math.inf)
    assert chart.flips.sum() == 1
    assert {round(abs(float(x)), 6) for x in chart.frame.ravel()} == {round(math.sqrt(0.5), 6)}
    along = {bool(flip): axis.pace for flip, axis in zip(chart.flips, chart.axes)}
    assert along[True] == pytest.approx(1 / math.sqrt(0.05), rel=0.05)
    assert along[False] == pytest.approx(1 / math.sqrt(0.95), rel=0.05)
    index, heights, v = gaussian_nodes(chart, precision, 0.9)
    again = node_probes(index, heights, v, chart, 0.9)
    assert not too_coarse(again, chart)
    mixed = np.array([np.eye(2), [[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]]])
    assert fitted_chart(probes, mixed, math.inf).axes[0].pace < 1.1


@pytest.mark.parametrize("frequency", [0.2, 0.6])
def test_rows_may_be_as_far_apart_as_a_table_is_smooth(frequency):
    """Read at the distance that is found, the error is what was allowed."""
    allowed, step = 1e-7, 0.5

    def error(distance):
        rows = even_rows(-30.0, 30.0, distance)
        b = np.linspace(-20.0, 20.0, 301)
        start, weight = rows.stencil(b)
        table = np.cos(frequency * rows.b)
        read = (weight * table[start[:, None] + np.arange(rows.points)]).sum(axis=1)
        return np.abs(read - np.cos(frequency * b)).max()

    b = even_rows(-30.0, 30.0, step).b
    table, known = np.cos(frequency * b)[:, None], np.ones((len(b), 1), dtype=bool)
    factor = spare(table, known, np.ones((len(b), 1)), allowed)
    assert factor > 1.2
    assert 0.1 * allowed < error(factor * step) < 3.0 * allowed
    assert math.isnan(spare(table[:8], known[:8], np.ones((8, 1)), allowed))


def test_shifted_lattices_keep_mirror_images():
    """Of an odd phi a neuron and its mirror image are one node at the certificate's lattices, too."""
    mirror = np.array([[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, -1.0]]])
    layer = Layer(mf.Network("tanh", 2).activation, np.array([50.0, 50.0]), CHECK, turns=mirror.astype(np.int64))
    assert len(layer._images(2)) == 2
    index = np.array([[0, 0], [-1, -1], [2, 1], [-3, -2]])
    assert len(layer._representatives(index)) == 2
    np.testing.assert_allclose(layer._nodes(index[:1]), -layer._nodes(index[1:2]))


@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_nodes_far_from_the_origin_have_names_of_their_own(r):
    """Maxima of a last layer of 1e9 samples are at 33,000 steps."""
    far = min(half(r) - 2, 33_000)
    index = np.array([[far] * r, [far - 1] * r, [-far] * r, [far] * r, [-far] * (r - 1) + [far]])
    assert len(unique(index)) == len({tuple(row) for row in index.tolist()})
    assert len(set(keys(index).tolist())) == len(unique(index))
    assert half(r) > 33_000 or r > 3
