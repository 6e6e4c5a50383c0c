"""Pictures of networks on images: what they show, in which order, and that they can be read."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from legible import assert_legible
from stub_posterior import StubPosterior

import meanfield as mf
from meanfield import plot_data
from meanfield.plot.style import save_figure


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def images():
    pytest.importorskip("sklearn", reason="scikit-learn, which ships the digits, is not installed")
    return mf.datasets.digits().classes(0, 1, 2).split(30, 45, rng=0)


@pytest.fixture(scope="module")
def task(images):
    return images[0].task(off=-0.5)


@pytest.fixture(scope="module")
def codes(task):
    return StubPosterior(task)


@pytest.fixture(scope="module")
def linear(task):
    return mf.solve(mf.Network("linear"), task, tau=0.01)


@pytest.fixture(scope="module")
def lazy(task):
    return mf.solve(mf.Network("sigmoid", scaling="lazy"), task)


def test_codes_are_blocks_on_training_and_on_test_images(images, codes):
    test = images[1]
    ax = plot_data.plot_image_codes(codes, X=test.images, labels=test.labels)
    image = np.asarray(ax.images[0].get_array())
    assert image.shape == (100, 30 + 45)
    centres = [round(text.xy[1]) for text in ax.texts[:3]]
    assert [text.get_text() for text in ax.texts] == ["1-1-0", "1-0-1", "0-1-1", "training", "test"]
    for columns in (image[:, :30], image[:, 30:]):
        for row, text in zip(centres, ax.texts, strict=False):
            active = [part[row - 5 : row + 5].mean() for part in np.split(columns, 3, axis=1)]
            assert "-".join("1" if x > 0.5 else "0" for x in active) == text.get_text()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "2"] * 2
    assert_legible(ax)


def test_test_images_are_sorted_by_class_however_they_come(images, codes):
    test = images[1]
    shuffled = np.random.default_rng(1).permutation(len(test))
    drawn = [
        np.asarray(plot_data.plot_image_codes(codes, X=x, labels=y, n_samples=10**6).images[0].get_array())
        for x, y in ((test.images, test.labels), (test.images[shuffled], test.labels[shuffled]))
    ]
    for one, other in zip(*(np.split(image, [10, 20, 30, 45, 60], axis=1) for image in drawn), strict=True):
        assert np.array_equal(np.unique(one.round(9)), np.unique(other.round(9)))


def test_neurons_without_codes_are_sorted_by_their_pattern(linear, lazy):
    for posterior, name in ((linear, "Gaussian"), (lazy, "random")):
        ax = plot_data.plot_image_codes(posterior)
        image = np.asarray(ax.images[0].get_array())
        assert image.shape == (100, 30)
        assert [text.get_text() for text in ax.texts] == [name]
        means = np.array([part.mean(axis=1) for part in np.split(image, 3, axis=1)]).T
        means = means - means.mean(axis=0)
        along = means @ np.linalg.svd(means)[2][0]
        assert (np.diff(along) <= 1e-12).all() or (np.diff(along) >= -1e-12).all()
        assert_legible(ax)


def test_many_samples_are_thinned_out_in_proportion(codes):
    image = plot_data.plot_image_codes(codes, n_samples=12, n_neurons=20).images[0].get_array()
    assert image.shape == (20, 12)


def test_kernels_are_those_of_the_posterior_in_the_order_of_the_classes(images, task, linear, lazy):
    test = images[1]
    raw = np.concatenate([images[0].images, test.images])
    for posterior in (linear, lazy):
        ax = plot_data.plot_data_kernel(posterior, X=test.images, labels=test.labels)
        # Both sets come sorted by class.
        assert np.asarray(ax.images[0].get_array()) == pytest.approx(posterior.kernel(raw), abs=1e-12)
        assert_legible(ax)
    ax = plot_data.plot_data_kernel(linear, inputs=True)
    assert np.asarray(ax.images[0].get_array()) == pytest.approx(task.features(1.0).kernel, abs=1e-12)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "1", "2"]


def test_colours_of_a_kernel_span_the_pairs_of_different_samples(lazy):
    ax = plot_data.plot_data_kernel(lazy)
    kernel = lazy.kernel()
    low, high = ax.images[0].get_clim()
    others = kernel[~np.eye(30, dtype=bool)]
    assert others.min() <= low < high <= others.max() < kernel.max()


def test_kernels_side_by_side(images, linear, lazy):
    figure = plot_data.figure_kernels(linear, lazy, X=images[1].images, labels=images[1].labels)
    panels = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in panels] == ["learned", "lazy", "inputs"]
    assert_legible(*panels)


def test_histograms_count_the_test_images_of_every_class(images, task, linear, lazy):
    test = images[1]
    outputs = {"non-lazy": linear.predict(test.images), "lazy": lazy.predict(test.images)}
    ax = plot_data.plot_predictor(task, outputs, test.labels, output=1, bins=25)
    stairs = [p for p in ax.patches if not p.get_fill()]
    assert len(stairs) == 3 * 2
    for c in range(3):
        heights = []
        for patch, output in zip(stairs[2 * c : 2 * c + 2], outputs.values(), strict=True):
            values, edges, base = patch.get_data()
            assert base == 2 - c
            counts = np.histogram(output[test.labels == str(c), 1], edges)[0]
            assert counts.sum() == 15
            heights.append((np.nan_to_num(values - base), counts))
        top = max(counts.max() for _, counts in heights)
        for height, counts in heights:
            assert height == pytest.approx(0.85 * counts / top)
    marks = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert marks == [-0.5, 1.0, -0.5]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["non-lazy", "lazy"]
    assert ax.get_xlabel() == "output $f_{2}$"
    assert_legible(ax)


def test_sampled_networks_are_dots(images, task, linear):
    test = images[1]
    mean = linear.predict(test.images)
    ax = plot_data.plot_predictor(task, {"theory": mean, "lazy": mean, "sampled": mean}, test.labels)
    dots = [line for line in ax.lines if line.get_marker() == "."]
    assert len(dots) == 3
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["theory", "lazy", "sampled"]


def test_all_outputs_in_one_figure(images, task, linear, lazy):
    test = images[1]
    outputs = {"non-lazy": linear.predict(test.images), "lazy": lazy.predict(test.images)}
    figure = plot_data.figure_predictor(task, outputs, test.labels)
    assert [ax.get_xlabel() for ax in figure.axes] == [f"output $f_{{{r}}}$" for r in (1, 2, 3)]
    assert_legible(*figure.axes)


def test_ten_classes_and_long_names_can_be_read():
    rng = np.random.default_rng(0)
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    labels = np.repeat(names, 4)
    task = mf.data_task(rng.standard_normal((40, 60)), labels=labels, class_names=names)
    lazy = mf.solve(mf.Network("relu", scaling="lazy"), task, tau=0.01)
    X = rng.standard_normal((50, 60))
    wanted = np.repeat(names, 5)
    figure = plot_data.figure_predictor(task, {"lazy": lazy.predict(X)}, wanted)
    assert len(figure.axes) == 10
    assert_legible(*figure.axes)
    assert_legible(plot_data.plot_image_codes(lazy, X=X, labels=wanted))
    kernels = plot_data.figure_kernels(lazy, lazy, X=X, labels=wanted)
    panels = [ax for ax in kernels.axes if ax.images]
    assert [ax.get_xlabel() for ax in panels] == ["inputs: airplane, ..., truck"] * 3  # no room for twenty names
    assert_legible(*panels)
    assert_legible(plot_data.plot_errors({"lazy": lazy.generalization_error(X, wanted)}))


def test_bars_are_bias_and_variance_of_the_classes(images, linear, lazy):
    test = images[1]
    errors = {
        "non-lazy": linear.generalization_error(test.images, test.labels, width=20),
        "lazy": lazy.generalization_error(test.images, test.labels),
    }
    ax = plot_data.plot_errors(errors)
    bars = dict(zip([c.get_label().partition(" (")[0] for c in ax.containers], ax.containers, strict=True))
    for name, error in errors.items():
        for kind in ("bias", "variance"):
            heights = [bar.get_height() for bar in bars[f"{name}: {kind}"]]
            classes = [row[kind] for row in error.per_class().values()]
            assert heights == pytest.approx([*classes, getattr(error, kind)], rel=1e-12)
        assert f"{name}: bias ({error.bias:.2g})" in [t.get_text() for t in ax.get_legend().get_texts()]
        tops = [bar.get_y() + bar.get_height() for bar in bars[f"{name}: variance"]]
        assert tops[-1] == pytest.approx(error.error)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "2", "all"]
    assert_legible(ax)


def test_hard_images_are_those_with_the_largest_residuals(images, linear):
    ax = plot_data.plot_hard_images(linear, n_images=7)
    size = np.linalg.norm(linear.residual, axis=1)
    order = np.argsort(-size)[:7]
    raw = images[0].images
    shown = [np.asarray(image.get_array()) for image in ax.images]
    assert np.array(shown) * np.ptp(raw[order]) + raw[order].min() == pytest.approx(raw[order], abs=1e-9)
    captions = [text.get_text() for text in ax.texts]
    assert captions == [f"{images[0].labels[mu]}: {size[mu]:#.2g}" for mu in order]
    assert_legible(ax)


def test_at_zero_temperature_hardness_is_t(images):
    task = images[0].classes(0, 1).task()
    lazy = mf.solve(mf.Network("sigmoid", scaling="lazy"), task)
    ax = plot_data.plot_hard_images(lazy, n_images=3)
    size = np.linalg.norm(lazy.order_parameters["t"], axis=1)
    assert ax.texts[0].get_text().endswith(f": {size.max():#.2g}".rstrip("."))
    assert ax.get_title() == r"class: $|t_\mu|$"


def test_colour_images_stay_coloured():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    task = mf.data_task(pixels, labels=[0, 1] * 3, center=True, scale="rms")
    ax = plot_data.plot_hard_images(mf.solve(mf.Network("relu", scaling="lazy"), task, tau=0.1), n_images=2)
    assert ax.images[0].get_array().shape == (4, 5, 3)


def test_what_cannot_be_drawn_is_refused(images, task, linear):
    test = images[1]
    mean = linear.predict(test.images)
    plain = mf.data_task(np.eye(5), np.arange(5.0))
    regression = mf.solve(mf.Network("linear"), plain, tau=0.1)
    for function in (plot_data.plot_image_codes, plot_data.plot_data_kernel):
        with pytest.raises(ValueError, match="sorts samples by class"):
            function(regression)
        with pytest.raises(ValueError, match="give their labels"):
            function(linear, X=test.images)
        with pytest.raises(ValueError, match="unknown class '7'"):
            function(linear, X=test.images, labels=np.full(len(test), "7"))
    with pytest.raises(ValueError, match="sorts samples by class"):
        plot_data.plot_predictor(plain, {"one": np.zeros((5, 1))}, np.zeros(5))
    with pytest.raises(ValueError, match="no images"):
        plot_data.plot_hard_images(regression)
    with pytest.raises(ValueError, match=r"must have shape \(n, m\) = \(45, 3\), got \(45, 2\)"):
        plot_data.plot_predictor(task, {"one": mean[:, :2]}, test.labels)
    with pytest.raises(ValueError, match="one to three networks"):
        plot_data.plot_predictor(task, {}, test.labels)
    with pytest.raises(ValueError, match="one to three networks"):
        plot_data.plot_errors(dict.fromkeys("abcd", linear.generalization_error(test.images, test.labels)))
    with pytest.raises(ValueError, match="have no classes"):
        plot_data.plot_errors({"one": regression.generalization_error(np.eye(5), np.arange(5.0))})


def test_axes_of_the_user_are_used_and_settings_left_alone(images, task, linear, lazy, tmp_path):
    before = dict(matplotlib.rcParams)
    test = images[1]
    error = linear.generalization_error(test.images, test.labels, width=100)
    figure, axes = plt.subplots(2, 3, figsize=(12, 8))
    calls = [
        lambda ax: plot_data.plot_image_codes(linear, ax),
        lambda ax: plot_data.plot_data_kernel(linear, ax),
        lambda ax: plot_data.plot_predictor(task, {"lazy": lazy.predict(test.images)}, test.labels, ax),
        lambda ax: plot_data.plot_errors({"lazy": error}, ax),
        lambda ax: plot_data.plot_hard_images(linear, ax),
    ]
    for call, ax in zip(calls, axes.ravel(), strict=False):
        assert call(ax) is ax
    assert dict(matplotlib.rcParams) == before
    assert [path.suffix for path in save_figure(figure, tmp_path / "all")] == [".pdf", ".png"]
