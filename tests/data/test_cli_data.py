"""`meanfield solve --data`: images in, tables, figures and posterior out, and how it refuses what makes no sense."""

import csv
import re
from importlib import import_module

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from stub_posterior import StubPosterior

import meanfield as mf
from meanfield import cli
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.data_posterior import DataPosterior


def run(*words):
    return cli.main([str(word) for word in words])


@pytest.fixture
def images(tmp_path):
    """An npz file of small colour images with three classes that differ in colour."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    pixels = rng.integers(0, 120, (60, 4, 5, 3))
    pixels[np.arange(60), :, :, labels] += 100
    path = tmp_path / "colours.npz"
    np.savez(path, images=pixels.astype(np.uint8), labels=labels, class_names=["red", "green", "blue"])
    return path


@pytest.fixture
def _sketches(monkeypatch):
    """Figures are made, but only sketched to their file, which is what takes time."""

    def sketch(figure, stem):
        path = stem.with_suffix(".png")
        figure.savefig(path, dpi=20)
        plt.close(figure)
        return [path]

    monkeypatch.setattr("meanfield.plot.style.save_figure", sketch)


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def numbers(text, name):
    """Residual, accuracy, error, bias and variance of one network in the printed table."""
    return [float(x) for x in re.search(rf"^{name}, \S = \S+ +(.*)$", text, re.MULTILINE)[1].replace("|", "").split()]


def test_one_command_does_everything(images, tmp_path, capsys):
    folder = tmp_path / "out" / "new"
    words = ("--data", images, "--per-class", 10, "--test", 24, "--activation", "linear", "--off", -0.5)
    assert run("solve", *words, "--tau", 0.02, "--width", 50, "--output", folder) == 0
    text = capsys.readouterr().out
    figures = ("codes", "kernels", "predictor", "errors", "readouts", "hard-images")
    expected = {f"{name}.{end}" for name in figures for end in ("pdf", "png")}
    expected |= {"errors.csv", "posterior-non-lazy.npz", "posterior-lazy.npz"}
    assert {path.name for path in folder.iterdir()} == expected
    assert all(name in text for name in expected)
    assert "colours.npz: 30 images 4x5x3" in text
    post = DataPosterior.load(folder / "posterior-non-lazy.npz")
    assert post.tau == 0.02
    assert post.task.class_names == ("red", "green", "blue")
    assert np.unique(post.task.targets).tolist() == [-0.5, 1.0]
    assert post.table() in text

    data = mf.datasets.load_npz(images)
    names = np.array(data[2])[data[1]]
    _, test = mf.datasets.ImageSet(data[0], names, data[2]).split(30, 24, rng=0)
    rows = {(row["network"], row["class"]): row for row in read_csv(folder / "errors.csv")}
    assert len(rows) == 8
    for name, accuracy in (("non-lazy", 1.0), ("lazy", 1.0)):
        found = DataPosterior.load(folder / f"posterior-{name}.npz")
        error = found.generalization_error(test.images, test.labels, width=50)
        row = rows[name, "all"]
        assert [float(row[key]) for key in ("samples", "bias", "variance")] == [24, error.bias, error.variance]
        residual = np.sqrt((found.residual**2).sum(axis=1).mean())
        assert numbers(text, name) == pytest.approx(
            [residual, accuracy, error.error, error.bias, error.variance], rel=1e-2
        )


def test_without_a_folder_nothing_is_written(images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("solve", "--data", images, "--classes", "blue", 0, "--activation", "linear", "--per-class", 8) == 2
    assert "are wanted; ask for fewer" in capsys.readouterr().err  # 150 test images by default
    words = ("--classes", "blue", 0, "--activation", "linear", "--per-class", 8, "--test", 20)
    assert run("solve", "--data", images, *words, "--grayscale") == 0
    text = capsys.readouterr().out
    assert "16 images 4x5 of float64; blue: 8, red: 8" in text
    assert "wrote" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["colours.npz"]


def test_the_seed_chooses_the_images(images, capsys):
    words = ("solve", "--data", images, "--activation", "linear", "--per-class", 5, "--test", 30)
    texts = []
    for seed in (1, 1, 2):
        assert run(*words, "--seed", seed) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.usefixtures("_sketches")
def test_only_the_lazy_network(images, tmp_path, capsys):
    words = ("--per-class", 5, "--test", 30, "--lazy", "--tau", 1e-3, "--output", tmp_path / "out")
    assert run("solve", "--data", images, *words) == 0
    text = capsys.readouterr().out
    assert "non-lazy" not in text
    assert numbers(text, "lazy")[1] > 0.9
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"posterior-lazy.npz", "codes.png"} <= names
    assert "readouts.png" not in names
    assert DataPosterior.load(tmp_path / "out" / "posterior-lazy.npz").tau == 1e-3


def test_deep_linear_networks_are_solved_at_zero_temperature(images, capsys):
    words = ("--activation", "linear", "--depth", 3, "--per-class", 5, "--test", 30)
    assert run("solve", "--data", images, *words) == 2  # one-hot targets have a mean, centred inputs have none
    assert "inputs centred without centring the targets" in capsys.readouterr().err
    for more in (("--off", -0.5), ("--no-center",)):
        assert run("solve", "--data", images, *words, *more) == 0
        text = capsys.readouterr().out
        assert "3 hidden layers" in text
        assert numbers(text, "non-lazy")[0] == 0.0


@pytest.mark.usefixtures("_sketches")
def test_a_singular_kernel_leaves_the_lazy_network_its_least_squares_limit(tmp_path, capsys):
    """Twelve samples in four dimensions: no linear network fits the targets."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((24, 4)), np.tile([1.5, 2.0], 12)
    path = tmp_path / "vectors.npz"
    np.savez(path, x=x, y=y)
    words = ("--activation", "linear", "--per-class", 6, "--test", 12, "--output", tmp_path / "out")
    assert run("solve", "--data", path, *words) == 0
    assert "12 images 1x4 of float64; 1.5: 6, 2.0: 6" in capsys.readouterr().out
    lazy = DataPosterior.load(tmp_path / "out" / "posterior-lazy.npz")
    task = lazy.task
    least_squares = task.inputs @ np.linalg.lstsq(task.inputs, task.targets, rcond=None)[0]
    assert np.abs(lazy.predictions - least_squares).max() < 1e-5
    assert not (tmp_path / "out" / "hard-images.png").exists()  # they are no images


@pytest.mark.usefixtures("_sketches")
def test_codes_and_digits(tmp_path, capsys, monkeypatch):
    """With codes that are made up: what the command does with a solution, not how it is found."""
    pytest.importorskip("sklearn", reason="scikit-learn, which ships the digits, is not installed")

    def solved(network, task, tau):
        return StubPosterior(task, tau, "lazy" if network.scaling == "lazy" else "redundant", network)

    monkeypatch.setattr(import_module("meanfield.solve"), "solve", solved)
    words = ("--classes", 0, 1, 2, "--per-class", 5, "--test", 30, "--sigma-a", 2, "--output", tmp_path)
    assert run("solve", "--data", "digits", *words) == 0
    assert "stub, tau = 0.01, sigma_a = 2" in capsys.readouterr().out
    assert (tmp_path / "readouts.png").exists()


@pytest.mark.usefixtures("_sketches")
def test_a_sigmoid_network_has_codes(images, tmp_path, capsys):
    words = ("--classes", "red", "blue", "--per-class", 5, "--test", 30, "--tau", 0.1, "--output", tmp_path / "out")
    assert run("solve", "--data", images, *words) == 0
    text = capsys.readouterr().out
    found = DataPosterior.load(tmp_path / "out" / "posterior-non-lazy.npz")
    assert found.scheme == "redundant"
    assert found.certificate.kkt_residual < 1e-4
    assert {"1-0", "0-1"} <= {code.label for code in found.codes}
    for code in found.codes:
        assert re.search(rf"^{code.label} +{code.weight:.6f} \|", text, re.MULTILINE)
    for name, scale in (("non-lazy", 0.1), ("lazy", 0.0)):
        posterior = DataPosterior.load(tmp_path / "out" / f"posterior-{name}.npz")
        size = np.sqrt((posterior.residual**2).sum(axis=1).mean())
        assert numbers(text, name)[:2] == pytest.approx([size, 1.0], rel=1e-2)
        assert posterior.tau == scale
    assert {"readouts.png", "codes.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_a_task_file_gives_network_temperature_and_targets(images, tmp_path, capsys):
    path = tmp_path / "task.toml"
    path.write_text('tau = 0.5\n[task]\noff = -1\n[network]\nactivation = "linear"\nsigma_a = 3.0\n')
    words = ("solve", "--data", images, "--per-class", 5, "--test", 30, "--config", path)
    assert run(*words) == 0
    assert re.search(r"sigma_a = 3,(.|\n)*tau = 0.5\n", capsys.readouterr().out)
    path.write_text('[task]\nfractions = ["1/2", "1/2"]\n')
    assert run(*words) == 2
    assert "has fractions; with --data it may hold on, off" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "letters"), "must be digits, mnist, fashion, cifar10 or FILE.npz, got 'letters'"),
        (("--data", "cifar10"), "--data cifar10 needs --path"),
        (("--data", "fashion"), "--data fashion needs --path"),
        (("--data", "fashion", "--path", "nowhere"), "nowhere does not exist; make this folder"),
        (("--data", "digits", "--path", "here"), "needs no --path"),
        (("--data", "nothing.npz"), "nothing.npz"),
        (("--data", "digits", "--classes", "zero", "one"), "there is no class 'zero'"),
        (("--data", "digits", "--per-class", "0"), "--per-class must be at least 1, got 0"),
        (("--data", "digits", "--width", "0"), "--width must be at least 1, got 0"),
        (("--data", "digits", "--seed", "-1"), "--seed must be at least 0, got -1"),
        (("--data", "digits", "--depth", "0"), "depth, the number of hidden layers"),
        (("--data", "digits", "--fractions", "1/2", "1/2"), "--fractions describes a task without images"),
        (("--data", "digits", "--n-samples", "90"), "--n-samples describes a task without images"),
        (("--data", "digits", "--plot", "stem"), "--plot"),
        (("--per-class", "30"), "--per-class is about images: it needs --data"),
        (("--lazy",), "--lazy is about images"),
        (("--data", "digits", "--classes", "3", "--activation", "linear"), "all samples belong to class '3'"),
        (("--data", "digits", "--on", "0"), "on and off are both 0"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(words, message, capsys, tmp_path, monkeypatch):
    if "digits" in words:
        pytest.importorskip("sklearn", reason="scikit-learn, which ships the digits, is not installed")
    monkeypatch.chdir(tmp_path)
    assert run("solve", *words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("meanfield solve: ")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line(monkeypatch, capsys):
    def fail():
        raise ImportError("the 8 x 8 digits come with scikit-learn: pip install scikit-learn.")

    monkeypatch.setattr(mf.datasets, "digits", fail)
    assert run("solve", "--data", "digits") == 2
    assert "come with scikit-learn" in capsys.readouterr().err


def test_a_file_is_no_folder(images, capsys):
    assert run("solve", "--data", images, "--output", images) == 2
    assert "can be no folder" in capsys.readouterr().err


def test_class_names_that_do_not_fit_are_refused(tmp_path, capsys):
    path = tmp_path / "bad.npz"
    np.savez(path, images=np.zeros((4, 2, 2)), labels=[0, 1, 2, 3], class_names=["a", "b"])
    assert run("solve", "--data", path) == 2
    assert "has labels 0 to 3, but 2 class names" in capsys.readouterr().err


def test_no_certified_solution_is_status_3(images, monkeypatch, capsys, tmp_path):
    def fail(*_, **__):
        raise ConvergenceError("gradient 0.1: give a larger tau.")

    monkeypatch.setattr(import_module("meanfield.solve"), "solve", fail)
    assert run("solve", "--data", images, "--per-class", 5, "--test", 30, "--output", tmp_path / "out") == 3
    assert capsys.readouterr().err == "meanfield solve: gradient 0.1: give a larger tau.\n"
    assert not (tmp_path / "out").exists()
