"""Pictures: what they show, that labels do not collide, and that the user's settings are left alone."""

import re
from dataclasses import dataclass
from itertools import combinations, product
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from legible import assert_legible
from matplotlib.colors import to_rgb

import meanfield as mf
from meanfield import plot
from meanfield.plot.style import code_color, code_styles, line_styles
from meanfield.posterior.certificate import Certificate
from meanfield.posterior.division import ByCode
from meanfield.problem.class_task import class_task
from meanfield.problem.network import Network
from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
from meanfield.theories.single_layer.solution import Solution

CERTIFICATE = Certificate(1e-15, 1e-12, 1e-9, True, True)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def make(name, task, t, readout, weight, direction=(), outlier=(), objective=-1.0, **more):
    outliers = np.asarray(direction), np.asarray(outlier)
    solution = Solution(t, objective, 0.1, readout, weight, *outliers, CERTIFICATE, n_samples=task.n_samples, **more)
    return SingleNeuronPosterior(Network(name), task, 0.0, solution)


@pytest.fixture(scope="module")
def redundant():
    """Close to the solution at y_- = 0.5 (pictures do not ask whether it is one); 1-1-1 is a thin group."""
    a = np.array([[-0.33, 1.61, 1.61], [1.73, 1.57, -0.34], [1.73, -0.34, 1.57], [1.16, 1.34, 1.34]])
    t = np.array([[3.2, -0.4, -0.4], [-0.9, 4.5, -1.4], [-0.9, -1.4, 4.5]])
    return make("sigmoid", class_task([0.5, 0.25, 0.25], off=0.5), t, a, np.array([0.332, 0.315, 0.315, 0.038]))


@pytest.fixture(scope="module")
def sparse():
    t = np.array([[1.38, -0.2, -0.2], [-0.3, 1.95, -0.2], [-0.3, -0.2, 1.95]])
    u = t / np.linalg.norm(t, axis=1)[:, None]
    task = class_task([0.5, 0.25, 0.25])
    return make("relu", task, t, np.array([[0.31, 0.17, 0.17]]), np.ones(1), u, np.array([0.59, 0.47, 0.47]))


@pytest.fixture(scope="module")
def analog():
    task = class_task([0.5, 0.25, 0.25])
    u = np.array([[0.8, 0.1, 0.1], [0.1, 0.5, 0.0], [0.1, 0.0, 0.5]])
    return make("linear", task, task.targets @ np.linalg.inv(u), np.zeros((0, 3)), np.zeros(0), gaussian_covariance=u)


def binary(*, n_samples=np.inf, **more):
    task = class_task(targets=[1.0, -1.0], n_samples=n_samples)
    return make("sigmoid", task, np.array([[5.17], [-5.17]]), np.array([[2.27], [-2.27]]), np.array([0.5, 0.5]), **more)


@dataclass(frozen=True)
class Transition:
    parameter: str
    value: float
    kind: str
    codes: tuple
    crossover: bool
    label: str


class PhaseDiagram:
    """Pictures ask for what they draw by the names of its classes."""


class Line(PhaseDiagram):
    """Codes over y_-: two with equal weights, one that enters at 0.4771, one at an isolated non-unique point only."""

    codes = ("110", "101", "111", "001")
    network = Network("sigmoid")
    division = ByCode()
    unique = np.arange(57) != 16

    def __init__(self):
        self.axes = {"off": np.linspace(-0.4, 1.0, 57)}

    def weights(self, pattern):
        present = np.maximum(self.axes["off"] - 0.4771, 0.0)
        if pattern == "001":
            return np.where(self.unique, 0.0, 0.3)
        return present if pattern == "111" else 0.5 * (1 - present)

    def transitions(self):
        return [
            Transition("off", 0.4771, "weight", ("111",), False, "1-1-1 enters"),
            Transition("off", 0.48, "label", ("110",), True, "0-1-1 -> 1-1-1"),
            Transition("off", 0.5, "weight", ("100",), False, "1-0-0 leaves"),
        ]


class Plane(PhaseDiagram):
    phase_labels = ("1-1-1, pairs", "never seen", "pairs", "pairs, 1-0-0")

    def __init__(self):
        self.axes = {"off": np.linspace(-1, 1, 60), "sigma_a": np.linspace(0.5, 2, 40)}

    @property
    def phase(self):
        x, y = np.meshgrid(*self.axes.values(), indexing="ij")
        phase = np.where(x > 0.3 * y, 0, np.where(x > -0.5, 2, 3))
        phase[:5, :4] = -1
        return phase


# ---- one posterior -----------------------------------------------------------------------------------


def test_readouts_of_codes_are_lines_through_their_components(redundant):
    ax = plot.plot_readout_posterior(redundant)
    drawn = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 3]
    assert np.array_equal(drawn, [code.readout for code in redundant.codes])
    assert ax.get_legend().get_texts()[0].get_text() == "0-1-1 (0.332)"
    assert_legible(ax)


def test_readouts_of_bulk_and_outliers(sparse):
    ax = plot.plot_readout_posterior(sparse)
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names[0] == "bulk (1.000)"
    assert names[1] == "outlier 1-0-0 (0.590)"
    assert "bar a" in ax.get_ylabel()
    assert_legible(ax)


def test_readouts_in_the_plane_of_two_outputs(redundant, sparse, analog):
    for post in (redundant, sparse, analog):
        ax = plot.plot_readout_posterior(post, outputs=(0, 2))
        assert ax.get_xlabel().startswith("readout $a_{1}$")
        assert ax.get_ylabel().startswith("readout $a_{3}$")
        assert_legible(ax)
    ax = plot.plot_readout_posterior(redundant, outputs=(0, 2))
    centres = np.array([c.get_offsets()[0] for c in ax.collections])
    assert np.array_equal(centres, redundant.solution.readout[:, [0, 2]])


def test_gaussian_readouts_are_ellipses_of_one_and_two_standard_deviations(analog):
    ax = plot.plot_readout_posterior(analog)
    one, two = ax.patches
    value, vector = np.linalg.eigh(analog.readout_covariance[:2, :2])
    assert (one.width, one.height) == pytest.approx(2 * np.sqrt(value[::-1]))
    assert (two.width, two.height) == pytest.approx(4 * np.sqrt(value[::-1]))
    angle = np.deg2rad(one.angle)
    assert abs(np.array([np.cos(angle), np.sin(angle)]) @ vector[:, 1]) == pytest.approx(1)


def test_one_output_shows_weights_or_a_density():
    ax = plot.plot_readout_posterior(binary())
    stems = [line for line in ax.lines if len(line.get_xdata()) == 2]
    assert [tuple(line.get_ydata()) for line in stems] == [(0, 0.5), (0, 0.5)]
    assert [line.get_xdata()[0] for line in stems] == [2.27, -2.27]
    assert_legible(ax)
    width = {"n_samples": 50, "covariance": np.full((2, 1, 1), 0.02)}
    a = np.linspace(-5, 5, 2001)
    mass = binary(**width).readout_density(a[:, None]).sum() * (a[1] - a[0])
    ax = plot.plot_readout_posterior(binary(objective=-1 + np.log(mass) / 50, **width))
    assert ax.get_ylabel() == "density $P(a)$"
    x, y = ax.lines[0].get_data()
    assert y.sum() * (x[1] - x[0]) == pytest.approx(1, abs=1e-6)
    assert_legible(ax)


def test_codes_of_finite_width_have_error_bars(redundant):
    s = redundant.solution
    task = redundant.task.with_(n_samples=100)
    wide = make("sigmoid", task, s.t, s.readout, s.weight, covariance=np.tile(0.01 * np.eye(3), (4, 1, 1)))
    ax = plot.plot_readout_posterior(wide)
    assert len(ax.containers) == 4
    assert_legible(ax)


@pytest.mark.parametrize("name", ["redundant", "sparse", "analog"])
def test_activation_maps_are_sorted_and_labelled(request, name):
    post = request.getfixturevalue(name)
    neurons = post.sample_neurons(100, rng=0)
    ax = plot.plot_activation_map(neurons)
    image = ax.images[0].get_array()
    assert image.shape == (100, 100)
    assert sorted(image.ravel()) == sorted(neurons.activations.ravel())
    labels = [t.get_text() for t in ax.texts]
    expected = {
        "redundant": ["1-1-1", "1-1-0", "1-0-1", "0-1-1"],
        "sparse": ["bulk", "outlier 1-0-0", "outlier 0-1-0", "outlier 0-0-1"],
        "analog": ["Gaussian"],
    }[name]
    assert labels == expected
    assert [t.get_text() for t in ax.get_xticklabels()] == ["class 1", "class 2", "class 3"]
    assert_legible(ax)


def test_rows_of_a_map_belong_to_the_group_they_are_labelled_with(redundant):
    ax = plot.plot_activation_map(redundant)
    image = ax.images[0].get_array()
    centres = [round(text.xy[1]) for text in ax.texts]
    for row, text in zip(centres, ax.texts, strict=True):
        active = [image[row, :50].mean(), image[row, 50:75].mean(), image[row, 75:].mean()]
        assert "-".join("1" if x > 0.5 else "0" for x in active) == text.get_text()


def test_kernel_has_the_blocks_of_the_posterior(redundant):
    ax = plot.plot_kernel(redundant, n_samples=40)
    image = ax.images[0].get_array()
    kernel = redundant.kernel()
    assert image.shape == (40, 40)
    assert image[0, 0] == kernel.diagonal[0]
    assert image[0, 39] == kernel.block[0, 2]
    assert_legible(ax)


# ---- diagrams ------------------------------------------------------------------------------------------


def test_codes_of_one_orbit_share_a_curve_that_ends_on_the_transition():
    ax = plot.plot_weights(Line())
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["1-1-0, 1-0-1", "1-1-1"]
    curve = next(line for line in ax.lines if line.get_label() == "1-1-1")
    present = ~np.isnan(curve.get_ydata())
    assert curve.get_xdata()[present][0] == 0.4771
    assert curve.get_ydata()[present][0] == 0.0
    assert ax.get_xlabel() == "$y_{-}$"


def test_transitions_are_solid_and_crossovers_dotted_and_labels_do_not_collide():
    ax = plot.plot_weights(Line())
    vertical = {
        round(line.get_xdata()[0], 12): line.get_linestyle() for line in ax.lines if len(set(line.get_xdata())) == 1
    }
    assert vertical == {0.0: "--", 0.4771: "-", 0.48: ":", 0.5: "-"}
    assert [t.get_text() for t in ax.texts] == ["not unique", "1-1-1 enters", "0-1-1 -> 1-1-1", "1-0-0 leaves"]
    assert_legible(ax)


def test_names_of_close_points_do_not_lie_over_each_other():
    """Every meeting point has its dot; of those in one place as many have their names as have room around them."""
    places = [("cusp", 0.2, 0.05), *(("triple point", 0.2 + 0.001 * k, 0.051) for k in range(9)), ("corner", 0.2, 0.09)]

    class Curves(list):
        points = tuple(SimpleNamespace(kind=kind, parameters={"off": off, "tau": tau}) for kind, off, tau in places)

    task = class_task(fractions=(0.5, 0.25, 0.25))
    diagram = mf.sweep(Network("sigmoid"), task, off=np.linspace(0, 0.5, 4), tau=np.linspace(0.01, 0.1, 3))
    ax = plot.plot_phases(diagram, boundaries=Curves())
    named = [text.get_text() for text in ax.texts if len(text.get_text()) > 1]
    assert {"cusp", "triple point", "corner"} == set(named)
    assert 1 < named.count("triple point") < 9
    assert sum(line.get_marker() == "o" for line in ax.lines) == 11
    assert_legible(ax)
    plt.close(ax.figure)


def test_letters_of_small_phases_have_places_of_their_own():
    """Around the triple points of the sigmoid over temperature there are a dozen phases, most of them narrow."""
    task = class_task(fractions=(0.5, 0.25, 0.25))
    diagram = mf.sweep(Network("sigmoid"), task, off=np.linspace(-1, 0.95, 40), tau=np.linspace(0, 0.3, 40))
    ax = plot.plot_phases(diagram)
    letters = {text.get_text(): text for text in ax.texts}
    assert len(letters) == len(diagram.phase_labels) > 8
    for k, (letter, text) in enumerate(sorted(letters.items())):
        i, j = (int(np.argmin(np.abs(axis - v))) for axis, v in zip(diagram.axes.values(), text.xy, strict=True))
        assert diagram.phase[i, j] == k, letter  # where the letter is, or the line from it leads
    assert any(text.arrow_patch is not None for text in letters.values())
    assert_legible(ax)
    plt.close(ax.figure)


def test_depth_has_whole_numbers():
    task = class_task(fractions=(0.5, 0.25, 0.25))
    ax = plot.plot_phases(mf.sweep(Network("sigmoid"), task, depth=[1, 2, 3], off=[0.0, 0.4]))
    ticks = ax.get_xticks()
    assert np.array_equal(ticks, np.rint(ticks))
    plt.close(ax.figure)


def test_phases_have_letters_inside_and_codes_beside():
    ax = plot.plot_phases(Plane())
    diagram = Plane()
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names == ["A: 1-1-1, pairs", "B: pairs", "C: pairs, 1-0-0", "not certified"]
    for text, phase in zip(sorted(ax.texts, key=lambda text: text.get_text()), (0, 2, 3), strict=True):
        x, y = text.xy
        i, j = (int(np.argmin(np.abs(axis - v))) for axis, v in zip(diagram.axes.values(), (x, y), strict=True))
        assert diagram.phase[i, j] == phase
    assert_legible(ax)


def test_traced_boundaries_replace_the_outline_of_the_raster():
    places = [np.array(ends) for ends in ([[0.15, 0.5], [0.6, 2.0]], [[-0.5, 0.5], [-0.5, 2.0]], [[0, 1], [0.2, 1]])]
    kinds = [("weight", False), ("label", True), ("share", True)]
    curves = [
        SimpleNamespace(kind=kind, crossover=crossover, fine=lambda at=at: at)
        for (kind, crossover), at in zip(kinds, places, strict=True)
    ]
    ax = plot.plot_phases(Plane(), boundaries=curves)
    assert [line.get_linestyle() for line in ax.lines] == ["-", ":", "--"]
    assert np.array_equal(ax.lines[0].get_xydata(), places[0])
    assert len(ax.collections) == 1  # the raster itself
    assert len(plot.plot_phases(Plane()).collections) == 4


def test_a_diagram_with_outliers_shows_their_overlaps():
    task = class_task([0.5, 0.25, 0.25])
    diagram = mf.sweep(Network("relu"), task, off=[0.1, 0.2, 0.3, 0.36])
    ax = plot.plot_weights(diagram)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["(1, 1)", "(2, 2), (3, 3)", "(2, 3)"]
    curve = next(line for line in ax.lines if line.get_label() == "(2, 3)")
    zbar = np.array([outlier.preactivation for outlier in diagram.posterior(2).outliers])
    assert curve.get_ydata()[2] == pytest.approx((zbar[:, 1] * zbar[:, 2]).sum(), abs=1e-12)
    assert ax.get_ylabel() == "outlier overlap $M_{cc'}$"


def test_the_wrong_number_of_parameters_is_refused():
    with pytest.raises(ValueError, match="use plot_phases"):
        plot.plot_weights(Plane())
    with pytest.raises(ValueError, match="use plot_weights"):
        plot.plot_phases(Line())


def test_the_composite_figure_is_legible_and_saved(redundant, tmp_path):
    figure = plot.figure_phase_diagram(Line(), {-0.25: redundant, 0.2: redundant, 0.5: redundant, 0.75: redundant})
    top, *maps = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    assert [ax.get_title().split(":")[0] for ax in maps] == ["A", "B", "C", "D"]
    for ax in maps:
        assert_legible(ax)
    assert_legible(*maps)
    markers = [line.get_xdata()[0] for line in top.lines if line.get_marker() == "^"]
    assert markers == [-0.25, 0.2, 0.5, 0.75]
    paths = plot.save_figure(figure, tmp_path / "figure")
    assert [p.read_bytes()[:4] for p in paths] == [b"%PDF", b"\x89PNG"]
    assert figure.number not in plt.get_fignums()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda post: plot.plot_activation_map(post, layer=3), "layer must be an integer 1..1"),
        (lambda post: plot.plot_activation_map(post, layer="x"), "layer must be an integer 1..1"),
        (lambda post: plot.plot_activation_map(post, 3), "ax must be an Axes or None, got 3"),
        (lambda post: plot.plot_activation_map(post, colors=["red"]), "colors must be a Mapping or None"),
        (lambda post: plot.plot_kernel(post, n_samples=0), "n_samples must be an integer >= 1, got 0"),
        (lambda post: plot.plot_kernel(post, n_samples="a"), "n_samples must be an integer >= 1, got 'a'"),
        (lambda post: plot.plot_kernel(post, n_samples=10**6), "n_samples must be an integer <= 10000"),
        (lambda post: plot.plot_readout_posterior(post, outputs=3), "outputs must be two of the 3 outputs"),
        (lambda post: plot.plot_readout_posterior(post, outputs=(0,)), "outputs must be two of the 3 outputs"),
        (lambda post: plot.plot_readout_posterior(post, outputs=(0, 5)), "outputs must be an integer <= 2"),
        (lambda post: plot.plot_readout_posterior(post, outputs=("a", 1)), "outputs must be an integer >= 0"),
        (lambda post: plot.plot_phases(Plane(), boundaries=3), "boundaries must be an Iterable, got 3"),
        (lambda post: plot.plot_phases(Plane(), boundaries=[1]), "boundaries must be those of the diagram"),
        (lambda post: plot.figure_phase_diagram(Line(), {}), "posteriors must have at least one"),
        (lambda post: plot.figure_phase_diagram(Line(), {"a": post}), "the value of off of a posterior must be a real"),
        (lambda post: plot.figure_phase_diagram(Line(), {7: post}), "activation maps are drawn at values of off from"),
        (lambda post: plot.figure_phase_diagram(Line(), {0.1: 3}), "each of posteriors must be a Posterior"),
        (lambda post: plot.figure_phase_diagram(Line(), {0.1: post}, seed=-1), "seed must be None, an integer >= 0"),
    ],
)
def test_wrong_arguments_are_refused_in_a_line(redundant, call, said):
    with pytest.raises(ValueError, match="^" + re.escape(said)) as caught:
        call(redundant)
    assert "\n" not in str(caught.value)


def test_letters_of_phases_stay_inside_of_the_plane():
    ax = plot.plot_phases(Plane())
    ax.figure.canvas.draw()
    frame = ax.get_window_extent()
    letters = [text for text in ax.texts if text.get_fontweight() == "bold"]
    assert len(letters) > 1
    for text in letters:
        box = text.get_window_extent()
        assert frame.x0 - 1 <= box.x0 <= box.x1 <= frame.x1 + 1


def test_a_figure_is_not_saved_to_a_folder_that_is_not_there(redundant, tmp_path):
    figure = plot.plot_kernel(redundant).figure
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist; make it first"):
        plot.save_figure(figure, tmp_path / "nowhere" / "figure")


# ---- manners ---------------------------------------------------------------------------------------------


def test_axes_of_the_user_are_used_and_settings_left_alone(redundant, analog):
    before = dict(matplotlib.rcParams)
    _, ax = plt.subplots()
    for function in (plot.plot_readout_posterior, plot.plot_activation_map, plot.plot_kernel):
        assert function(redundant, ax) is ax
        ax.clear()
    assert plot.plot_weights(Line(), ax) is ax
    assert dict(matplotlib.rcParams) == before


def test_what_a_notebook_sets_on_the_first_figure_stays_set(redundant, monkeypatch):
    """Backends of notebooks switch to interactive mode with the first figure, and show later ones in this mode only."""
    make = plt.figure

    def first_figure(*args, **kwargs):
        plt.ion()
        return make(*args, **kwargs)

    monkeypatch.setattr(plt, "figure", first_figure)
    assert not plt.isinteractive()
    try:
        plot.plot_kernel(redundant)
        assert plt.isinteractive()
    finally:
        plt.ioff()


def brightness(color):
    """Relative luminance: what is left of a colour on a black-and-white print."""
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(color)]
    return np.array([0.2126, 0.7152, 0.0722]) @ linear


def simulated(color, matrix):
    return np.asarray(matrix) @ to_rgb(color)


def test_palette_can_be_told_apart_with_dichromatic_vision():
    """Vienot, Brettel and Mollon (1999) matrices for protanopia and deuteranopia."""
    protan = [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]
    deutan = [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
    for matrix in (np.eye(3), protan, deutan):
        for one, other in combinations(plot.PALETTE, 2):
            assert np.linalg.norm(simulated(one, matrix) - simulated(other, matrix)) > 0.12


def test_a_code_has_one_colour_in_every_picture(redundant, sparse):
    colors = {code_color("-".join(pattern)) for pattern in product("01", repeat=3)}
    assert len(colors) == 8
    assert None not in colors
    assert code_color("outlier 1-0-0") == code_color("1-0-0, 0-0-1") == code_color("1-0-0")
    assert code_color("1-1") == code_color("1-1-1")
    assert code_color("1-0-0-1") is code_color("output 1") is code_color("(1, 2)") is None
    curves = {line.get_label(): line.get_color() for line in plot.plot_weights(Line()).lines}
    for drawn in (redundant, sparse):
        for line in plot.plot_readout_posterior(drawn).lines:
            name = line.get_label().partition(" (")[0]
            if code_color(name):
                assert line.get_color() == code_color(name)
                assert curves.get(name, line.get_color()) == line.get_color()
    ticks = [text for text in plot.plot_activation_map(redundant).texts if code_color(text.get_text())]
    assert len(ticks) == 4
    for text in ticks:
        assert text.arrow_patch.get_edgecolor()[:3] == to_rgb(code_color(text.get_text()))


def test_more_codes_than_colours_have_the_styles_in_order():
    styles = code_styles(["1-0-0-0", "0-1-0-0"])
    assert styles == line_styles()[:2]
    twice = code_styles(["1-1", "1-1", "bulk"])
    assert [style["linestyle"] for style in twice] == ["-", "--", "-"]
    assert twice[0]["color"] == twice[1]["color"] != twice[2]["color"]
    assert len(code_styles(map(str, range(100)))) == 100
