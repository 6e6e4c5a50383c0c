"""Task files and flags from elsewhere: one line that says what is wrong, exit status 2, and nothing of them is run."""

from pathlib import Path

import pytest

from meanfield.cli.main import main

HUGE = "1" + "0" * 400
CONFIGS = [
    "task = 1", "task = []", "network = 'relu'", "network = [1]", "[[task]]\non = 1", "tau = '0'", "tau = true",
    "tau = nan", "tau = -1", "tau = inf", f"tau = {HUGE}", "tau = [0]", "tau = 2020-01-01", "tau = {}",
    "[task]\nfractions = 1", "[task]\nfractions = []", "[task]\nfractions = [1]", "[task]\nfractions = [0.5, true]",
    "[task]\nfractions = ['a', 'b']", "[task]\nfractions = [[0.5, 0.5]]", "[task]\nfractions = ['1/0', '1/2']",
    "[task]\nfractions = ['1e999999999/3', 1]", "[task]\nfractions = [nan, 1]", "[task]\nfractions = '1/2'",
    f"[task]\nfractions = [{HUGE}, 1]", "[task]\nfractions = [{a = 1}]", "[task]\nfractions = ['1/2/3', 0.5]",
    "[task]\non = 'one'", "[task]\non = nan", "[task]\non = 0", f"[task]\noff = {HUGE}", "[task]\noff = [0]",
    "[task]\noff = false", "[task]\nn_samples = 'inf'", "[task]\nn_samples = 0", "[task]\nn_samples = nan",
    f"[task]\nn_samples = {HUGE}", "[task]\ntargets = 1", "[task]\ntargets = [[1, 0], [0]]", "[task]\ntargets = [[]]",
    "[task]\ntargets = ['a', 'b']", "[task]\ntargets = [[1, 0], [1, 0]]", f"[task]\ntargets = [[{HUGE}], [0]]",
    "[task]\ntargets = [[1], [0]]\non = 1", "[task]\ncolour = 1", "colour = 1", "[network]\ndepth = 0",
    "[network]\nactivation = 1", "[network]\nactivation = ''", "[network]\nactivation = 'nothing'",
    "[network]\nactivation = ['relu']", "[network]\nactivation = 'z.func'", "[network]\nactivation = 'z**2'",
    "[network]\nactivation = 'z +'", "[network]\nactivation = '9**9**9**9*z'", "[network]\nactivation = 'a*z'",
    "[network]\nactivation = '''__import__('os').mkdir('ran')'''",
    "[network]\nactivation = '''Sum(z, (Symbol(\"__import__('os').mkdir('ran')\"), 1, 2))'''",
    "[network]\nsigma_a = 0", "[network]\nsigma_a = 'x'", "[network]\nsigma_w = nan", f"[network]\nsigma_w = {HUGE}",
    "[network]\nsigma_w = true", "[network]\nparameters = 1", "[network]\nparameters = [1]",
    "[network.parameters]\ngain = 'x'", "[network.parameters]\ngain = -1", "[network.parameters]\nslope = 1",
    f"[network.parameters]\ngain = {HUGE}", "[network.parameters]\ngain = nan", "[network.parameters]\ngain = true",
    "[network]\nactivation = 'tanh(q*z)'\n[network.parameters]\n'q-1' = 2", "[network", "= 1", "a = " + "[" * 5000,
    "x = '\\x00'", "\x00",
]  # fmt: skip
FLAGS = [
    ["--activation", "__import__('os').mkdir('ran')"],
    ["--activation", "Sum(z, (Symbol(\"__import__('os').mkdir('ran')\"), 1, 2))"],
    ["--activation", "9**9**9**9*z"],
    ["--activation", "(" * 300],
    ["--activation", "tanh(z)", "--parameter", "__import__=1"],
    ["--activation", "tanh(z)", "--parameter", "z=1"],
    ["--parameter", "gain=nan"],
    ["--parameter", f"gain={HUGE}"],
    ["--parameter", "gain=1e999999999/1e3"],
    ["--fractions", "1/2", "1/2/1"],
    ["--fractions", "nan", "1"],
    ["--targets", "1,0", "1"],
    ["--tau", "nan"],
    ["--tau", "-1"],
    ["--tau", "inf"],
    ["--n-samples", "0"],
    ["--n-samples", "nan"],
    ["--sigma-a", "inf"],
    ["--sigma-w", "1e200"],
    ["--on", "1e400"],
    ["--config", "nowhere.toml"],
    ["--config", "."],
    ["--config", "/dev/zero"],
    ["--output", "."],
    ["--output", "no/where.npz"],
]


def refused(arguments, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("meanfield ")
    assert "Error" not in err
    assert len(err) < 600
    assert not Path("ran").exists()


@pytest.mark.parametrize("text", CONFIGS)
def test_bad_task_files_give_one_line(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("task.toml").write_text(text, encoding="utf-8")
    refused(["solve", "--config", "task.toml"], capsys)
    if "network" in text and "task" not in text:
        refused(["equations", "--config", "task.toml"], capsys)


def test_a_task_file_that_is_no_text(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("task.toml").write_bytes(b"\xff\xfe\x00")
    refused(["solve", "--config", "task.toml"], capsys)
    Path("task.toml").write_bytes(b"#" * (2**20 + 1))
    refused(["solve", "--config", "task.toml"], capsys)


@pytest.mark.parametrize("flags", FLAGS)
def test_bad_flags_give_one_line(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refused(["solve", *flags], capsys)


@pytest.mark.parametrize("command", ["phase-diagram", "figures", "validate", "solve --data digits"])
@pytest.mark.parametrize("output", ["file", "file/below"])
def test_folders_that_cannot_be_made_give_one_line(command, output, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("not a folder", encoding="utf-8")
    refused([*command.split(), "--output", output], capsys)


@pytest.mark.parametrize(
    "axis", ["off=0:1:99999999999999999999", "off=nan:1:3", "off=0:1e400:3", "off=1:0:3", "=0:1:2"]
)
def test_bad_axes_give_one_line(axis, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refused(["phase-diagram", "--sweep", axis], capsys)
