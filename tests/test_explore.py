"""Diagrams to click on: Matplotlib's events, and the HTML page in a real browser where there is one."""

import json
import re
import shutil
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backend_bases import KeyEvent, MouseEvent

import meanfield as mf
from meanfield.plot import page


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def task():
    return mf.class_task(fractions=[0.5, 0.25, 0.25])


@pytest.fixture(scope="module")
def plane(task):
    axes = {"off": np.linspace(-0.4, 0.8, 9), "sigma_a": np.linspace(0.5, 1.5, 5)}
    return mf.sweep(mf.Network("sigmoid"), task, progress=False, **axes)


@pytest.fixture(scope="module")
def hotter(task, plane):
    return mf.sweep(mf.Network("sigmoid"), task, 0.1, progress=False, **plane.axes)


@pytest.fixture(scope="module")
def line(task):
    return mf.sweep(mf.Network("relu"), task, off=np.linspace(-0.5, 0.5, 11), progress=False)


# ---- in Matplotlib -------------------------------------------------------------------------------------------------


def click(explorer, *values):
    """A click on these values, as a user's mouse makes it."""
    figure, axes = explorer.figure, explorer.figure.axes[0]
    figure.canvas.draw()
    point = (*values, np.mean(axes.get_ylim()))[:2]
    x, y = axes.transData.transform(point)
    figure.canvas.callbacks.process("button_press_event", MouseEvent("button_press_event", figure.canvas, x, y, 1))


def texts(explorer):
    figures = [explorer.figure, *explorer.figure.subfigs]
    return [t.get_text() for f in figures for t in f.texts] + [f._suptitle.get_text() for f in figures if f._suptitle]


def test_a_click_solves_that_point(plane):
    explorer = plane.plot(interactive=True)
    assert explorer.posterior is None
    click(explorer, 0.123, 0.87)
    assert explorer.values == pytest.approx({"off": 0.123, "sigma_a": 0.87}, abs=2e-3)
    expected = mf.solve(
        mf.Network("sigmoid", sigma_a=explorer.values["sigma_a"]), plane.task.with_(off=explorer.values["off"])
    )
    assert explorer.posterior.objective == pytest.approx(expected.objective, abs=1e-10)
    assert any("optimal" in text for text in texts(explorer))


def test_arrow_keys_step_over_the_grid(plane):
    explorer = plane.plot(interactive=True)
    explorer.select(0.2, 1.0)
    for key, values in (
        ("right", (0.35, 1.0)),
        ("up", (0.35, 1.25)),
        ("up", (0.35, 1.5)),
        ("up", (0.35, 1.5)),
        ("x", (0.35, 1.5)),
    ):
        explorer.figure.canvas.callbacks.process(
            "key_press_event", KeyEvent("key_press_event", explorer.figure.canvas, key)
        )
        assert tuple(explorer.values.values()) == pytest.approx(values)


def test_a_line_of_a_sparse_code(line):
    explorer = line.plot(interactive=True)
    click(explorer, -0.31)
    assert explorer.values["off"] == pytest.approx(-0.31, abs=5e-3)
    assert explorer.posterior.scheme == "sparse"


def test_a_point_that_fails_says_why(plane):
    explorer = plane.plot(interactive=True)
    assert explorer.select(0.2, -1.0) is None
    assert any("sigma_a" in text for text in texts(explorer))
    explorer.select(0.2, 1.0)
    assert explorer.posterior is not None


def test_clicks_that_the_toolbar_uses_are_left_alone(plane):
    explorer = plane.plot(interactive=True)
    explorer.figure.canvas.toolbar = SimpleNamespace(mode="zoom rect", _wait_cursor_for_draw_cm=nullcontext)
    click(explorer, 0.2, 1.0)
    assert explorer.posterior is None


def test_interactive_refusals(plane, task):
    with pytest.raises(ValueError, match="figure of its own"):
        plane.plot(plt.figure().add_subplot(), interactive=True)
    with pytest.raises(ValueError, match="each of off, sigma_a"):
        plane.plot(interactive=True).select(0.1)
    rows = [[0.5, 0.25, 0.25], [0.4, 0.3, 0.3]]
    with pytest.raises(ValueError, match="fraction_<class>"):
        mf.sweep(mf.Network("sigmoid"), task, fractions=rows, progress=False).plot(interactive=True)


@pytest.mark.parametrize("value", ["a", None, float("nan"), [0.2]])
def test_a_point_is_made_of_numbers(plane, value):
    with pytest.raises(ValueError, match="off must be a real number"):
        plane.plot(interactive=True).select(value, 1.0)


def test_interactive_is_true_or_false(plane):
    with pytest.raises(ValueError, match="interactive must be True or False"):
        plane.plot(interactive="yes")


@pytest.fixture(scope="module")
def endless(task):
    """A plane that ends at P = infinity."""
    axes = {"off": np.linspace(0, 0.4, 3), "n_samples": [100, 200, np.inf]}
    return mf.sweep(mf.Network("sigmoid"), task, 0.05, progress=False, **axes)


def test_infinity_has_a_place_on_the_axis(endless):
    explorer = endless.plot(interactive=True)
    axes = explorer.figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()][-1] == r"$\infty$"
    click(explorer, 0.2, 390.0)
    assert explorer.values["n_samples"] == np.inf
    expected = mf.solve(mf.Network("sigmoid"), endless.task.with_(off=explorer.values["off"]), tau=0.05)
    assert explorer.posterior.objective == pytest.approx(expected.objective, abs=1e-10)
    for key, value in (("down", 200.0), ("down", 100.0), ("up", 200.0), ("up", np.inf), ("up", np.inf)):
        explorer.figure.canvas.callbacks.process(
            "key_press_event", KeyEvent("key_press_event", explorer.figure.canvas, key)
        )
        assert explorer.values["n_samples"] == value
        assert explorer.posterior is not None
    click(explorer, 0.2, 150.0)
    assert explorer.values["n_samples"] == pytest.approx(150.0, abs=1.0)
    row = endless.row(0, 1).plot()
    assert [tick.get_text() for tick in row.get_xticklabels()][-1] == r"$\infty$"


@pytest.mark.parametrize("axes", [{"off": [0.2]}, {"off": [0.2], "sigma_a": [1.0]}])
def test_a_single_point_has_an_axis_too(task, axes):
    explorer = mf.sweep(mf.Network("sigmoid"), task, progress=False, **axes).plot(interactive=True)
    click(explorer, *([0.2, 1.0][: len(axes)]))
    assert explorer.values == pytest.approx({name: value[0] for name, value in axes.items()}, abs=5e-3)


@pytest.mark.parametrize("axes", [{"off": [0.0, 0.3]}, {"depth": [1, 2, 3], "off": [0.0, 0.3]}])
def test_codes_of_deep_networks_at_infinity_are_drawn(task, axes):
    explorer = mf.sweep(mf.Network("sigmoid", depth=2), task, 0.02, progress=False, **axes).plot(interactive=True)
    click(explorer, *([2, 0.2][-len(axes) :]))
    assert explorer.posterior.status == "optimal"
    image = next(ax for ax in explorer.figure.axes if ax.images)
    assert image.images[0].get_array().shape == (100, 3)
    assert [t.get_text() for t in image.get_yticklabels()] == [code.label for code in explorer.posterior.codes]


def test_many_codes_leave_room_for_their_picture():
    """Twenty codes of six classes: their legend was longer than the panel, of which nothing was left."""
    task = mf.class_task(n_classes=6)
    explorer = mf.sweep(mf.Network("sigmoid"), task, off=[-0.2, 0.0, 0.2], progress=False).plot(interactive=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        click(explorer, 0.0)
        explorer.figure.canvas.draw()
    curves = [text.get_text() for text in explorer.figure.axes[0].get_legend().get_texts()]
    assert max(map(len, curves)) < 60
    panel = next(ax for ax in explorer.figure.axes if ax.get_ylabel() == "readout $a_r$")
    names = [text.get_text() for text in panel.get_legend().get_texts()]
    codes = explorer.posterior.codes
    assert len(codes) > 9
    assert names[0] == f"{codes[0].label} ({codes[0].weight:.3f})"
    assert names[-1] == f"and {len(codes) - 8} more"


# ---- the page ------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_fetches_nothing(plane, tmp_path):
    path = plane.to_html(tmp_path / "plane")
    assert path == tmp_path / "plane.html"
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]* src=|<link[^>]* href=|@import", text)
    assert all(label in text for label in plane.phase_labels)
    assert len(text) < 2.5e6


def test_what_is_written_is_what_was_solved(plane):
    points = page._points(plane, plane.phase_labels)
    arrays = page._joined([points], list(points["labels"]))
    at = np.ravel_multi_index((4, 2), plane.shape)
    posterior = plane.posterior((4, 2))
    names = list(points["labels"])
    for k, code in enumerate(posterior.codes):
        assert names[arrays["label"][0, at, k]] == code.label
        np.testing.assert_allclose(arrays["weight"][0, at, k], code.weight, rtol=1e-6)
        np.testing.assert_allclose(arrays["readout"][0, at, k], code.readout, rtol=1e-6)
        np.testing.assert_allclose(arrays["activation"][0, at, k], code.activation, rtol=1e-6)
    assert arrays["numbers"][0, at, 0] == posterior.objective


def test_page_refusals(plane, line, hotter, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="same axes"):
        plane.to_html(tmp_path / "x", line)
    with pytest.raises(ValueError, match="exactly one parameter"):
        plane.to_html(tmp_path / "x", plane)
    for stranger in ("other", None, [plane], plane.posterior((0, 0))):
        with pytest.raises(ValueError, match="made of PhaseDiagrams"):
            plane.to_html(tmp_path / "x", stranger)
    other = mf.sweep(mf.Network("sigmoid", sigma_w=2.0), plane.task, 0.1, progress=False, **plane.axes)
    with pytest.raises(ValueError, match="got tau, sigma_w"):
        plane.to_html(tmp_path / "x", other)
    with pytest.raises(ValueError, match="same tau"):
        plane.to_html(tmp_path / "x", hotter, hotter)
    monkeypatch.setitem(__import__("sys").modules, "bokeh.embed", None)
    with pytest.raises(ImportError, match="extra html"):
        plane.to_html(tmp_path / "x")
    assert not list(tmp_path.iterdir())


CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1300,800",
)  # fmt: skip
FIND = """
const model = Bokeh.documents[0].get_model_by_name("plane");
const find = (view) => view.model === model ? view : (view.child_views ?? []).map(find).find((x) => x) ?? null;
const view = [...Bokeh.index.roots].map(find).find((x) => x);
const place = view.el.getBoundingClientRect(), frame = view.frame.bbox;
return [place.left + frame.left, place.top + frame.top, frame.width, frame.height,
        model.x_range.start, model.x_range.end, model.y_range.start, model.y_range.end];
"""
ROOM = """
const model = Bokeh.documents[0].get_model_by_name("map");
const find = (view) => view.model === model ? view : (view.child_views ?? []).map(find).find((x) => x) ?? null;
const view = [...Bokeh.index.roots].map(find).find((x) => x);
return view.el.getBoundingClientRect().width - view.frame.bbox.right;
"""


class Browser:
    """A page of a diagram in Chromium."""

    def __init__(self, path, profile):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.get(path.as_uri())
        self.wait("return typeof Bokeh !== 'undefined' && Bokeh.documents.length === 1 && Bokeh.documents[0].is_idle")

    def wait(self, script):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 30).until(lambda driver: driver.execute_script(script))

    def click(self, x, y=None):
        from selenium.webdriver.common.action_chains import ActionChains

        left, top, width, height, x0, x1, y0, y1 = self.driver.execute_script(FIND)
        y = 0.5 * (y0 + y1) if y is None else y
        actions = ActionChains(self.driver)
        actions.w3c_actions.pointer_action.move_to_location(
            round(left + width * (x - x0) / (x1 - x0)), round(top + height * (y1 - y) / (y1 - y0))
        )
        before = json.dumps(self.table)
        actions.w3c_actions.pointer_action.click()
        actions.perform()
        self.wait(f"return Bokeh.documents[0].get_model_by_name('table').text !== {before}")

    @property
    def table(self):
        return self.driver.execute_script("return Bokeh.documents[0].get_model_by_name('table').text")

    def rows(self):
        """Label -> numbers of the shown table."""
        cells = (re.sub(r"<[^>]+>", " ", row).replace("■", "").split() for row in self.table.split("<tr>")[2:])
        return {" ".join(c for c in row if not _number(c)): [float(c) for c in row if _number(c)] for row in cells}

    def errors(self):
        return [entry for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def _number(text):
    return re.fullmatch(r"-?\d+\.\d+", text) is not None


@pytest.fixture
def browser(tmp_path):
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver (Debian's packages chromium and chromium-driver)")
    opened = []

    def open_page(path):
        opened.append(Browser(path, tmp_path / "profile"))
        return opened[-1]

    yield open_page
    for one in opened:
        one.driver.quit()


def check(rows, posterior):
    parts = [(code.label, code) for code in posterior.codes]
    if posterior.scheme == "sparse":
        parts = [("bulk", code) for _, code in parts] + [(f"outlier {o.label}", o) for o in posterior.outliers]
    assert set(rows) == {name for name, _ in parts}
    for name, part in parts:
        np.testing.assert_allclose(rows[name], [part.weight, *part.readout, *part.activation], atol=6e-5)


def test_a_click_in_a_browser_shows_the_numbers_of_that_cell(browser, plane, hotter, tmp_path):
    shown = browser(plane.to_html(tmp_path / "plane.html", hotter))
    shown.click(0.2, 1.0)
    check(shown.rows(), plane.posterior((4, 2)))
    assert shown.driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    shown.click(-0.25, 1.5)
    check(shown.rows(), plane.posterior((1, 4)))
    before = shown.table
    shown.driver.execute_script("Bokeh.documents[0].get_model_by_name('slider').value = 1")
    shown.wait(f"return Bokeh.documents[0].get_model_by_name('table').text !== {json.dumps(before)}")
    check(shown.rows(), hotter.posterior((1, 4)))
    assert "τ = 0.1" in shown.table
    filled = shown.driver.execute_script(
        "return Array.from(Bokeh.documents[0].get_model_by_name('image').data.image[0]).filter(Number.isFinite).length"
    )
    assert filled >= 294
    assert shown.driver.execute_script(ROOM) >= 45  # numbers of the scale are not cut
    assert not shown.errors()


def test_infinity_in_a_browser(browser, endless, tmp_path):
    shown = browser(endless.to_html(tmp_path / "endless.html"))
    shown.click(0.2, 390.0)
    check(shown.rows(), endless.posterior((1, 2)))
    assert "P = ∞" in shown.table
    labels = "Bokeh.documents[0].get_model_by_name('plane').left[0].major_label_overrides"
    assert shown.driver.execute_script(f"return Array.from({labels}.values())") == ["∞"]
    shown.click(0.4, 110.0)
    check(shown.rows(), endless.posterior((2, 0)))
    assert not shown.errors()


def test_a_line_in_a_browser(browser, line, tmp_path):
    shown = browser(line.to_html(tmp_path / "line.html"))
    shown.click(-0.3)
    check(shown.rows(), line.posterior(2))
    assert not shown.errors()
