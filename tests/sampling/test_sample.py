"""`meanfield.sample` as users call it: starts, reproducibility, checkpoints, files, refusals."""

import ast
import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import meanfield as mf
import meanfield.sampling
from meanfield.sampling import hmc
from meanfield.sampling import sample as module
from meanfield.sampling.diagnostics import mcse_mean
from meanfield.sampling.plant import planted, weights_of

TASK = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5, n_samples=20)
NETWORK = mf.Network("sigmoid")
SHORT = {"draws": 8, "warmup": 30, "chains": 2, "progress": False}


@pytest.fixture(scope="module")
def chains():
    return mf.sample(NETWORK, TASK, 30, 0.1, rng=0, **SHORT)


def same(one, other):
    return all(np.array_equal(one.to_dict()[name], other.to_dict()[name], equal_nan=True) for name in one.to_dict())


def test_shapes_and_consistency(chains):
    assert chains.readout.shape == (2, 8, 30, 3)
    assert chains.class_activation.shape == (2, 8, 30, 3)
    assert chains.kernel_between.shape == (2, 8, 1, 3, 3)
    assert chains.kernel_diagonal.shape == (2, 8, 1, 3)
    assert chains.residual.shape == (2, 8, 20, 3)
    assert chains.prediction.shape == (2, 8, 0, 3)
    assert (chains.n_chains, chains.n_draws, chains.width, chains.n_groups) == (2, 8, 30, 3)
    np.testing.assert_array_equal(np.bincount(chains.labels), [10, 5, 5])
    # What was recorded of the last draw is what its weights give.
    phi, z = chains.activations(), chains.preactivations()
    np.testing.assert_allclose(phi, NETWORK.activation(z), atol=1e-12)
    f = np.einsum("cnr,cnp->cpr", chains.readout[:, -1], phi) / 30
    np.testing.assert_allclose(chains.residual[:, -1], TASK.targets[chains.labels] - f, atol=1e-12)
    np.testing.assert_allclose(chains.class_activations(), chains.class_activation[:, -1], atol=1e-13)
    np.testing.assert_allclose(chains.class_activations(at="first"), chains.class_activation[:, 0], atol=1e-13)
    kernel = np.einsum("cnp,cnq->cpq", phi, phi) / 30
    np.testing.assert_allclose(
        chains.kernel_between[:, -1, 0, 1, 2], kernel[:, 10:15, 15:].mean(axis=(1, 2)), atol=1e-13
    )
    pairs = ~np.eye(5, dtype=bool)
    np.testing.assert_allclose(
        chains.kernel_between[:, -1, 0, 2, 2], kernel[:, 15:, 15:][:, pairs].mean(axis=1), atol=1e-13
    )
    diagonal = np.diagonal(kernel, axis1=1, axis2=2)
    np.testing.assert_allclose(chains.kernel_diagonal[:, -1, 0, 0], diagonal[:, :10].mean(axis=1), atol=1e-13)


def test_every_layer_of_a_deep_network():
    network = mf.Network("tanh", depth=3)
    deep = mf.sample(network, TASK, 6, 0.2, rng=0, **SHORT)
    for layer in (2, 3):
        weights = deep.problem.weights(deep.state_last[0])[layer - 1]
        z = weights @ deep.activations(layer - 1)[0] / np.sqrt(6)
        np.testing.assert_allclose(deep.preactivations(layer)[0], z, atol=1e-12)
        np.testing.assert_allclose(
            deep.kernel_diagonal[0, -1, layer - 1, 0], np.mean(deep.activations(layer)[0, :, :10] ** 2), atol=1e-12
        )
    recorded = [*np.moveaxis(deep.lower_activation[:, -1], 1, 0), deep.class_activation[:, -1]]
    for layer, activation in enumerate(recorded, 1):
        np.testing.assert_allclose(deep.class_activations(layer), activation, atol=1e-13)
    np.testing.assert_array_equal(deep.activations(-3), deep.activations(1))
    for layer in (0, 4, True, 1.0):
        with pytest.raises(ValueError, match=r"layer must be an integer 1\.\.3"):
            deep.activations(layer)
    with pytest.raises(ValueError, match="first"):
        deep.activations(1, at="middle")


def test_streams(chains):
    assert same(chains, mf.sample(NETWORK, TASK, 30, 0.1, rng=0, **SHORT))
    assert same(chains, mf.sample(NETWORK, TASK, 30, 0.1, rng=np.random.default_rng(0), **SHORT))
    assert not same(chains, mf.sample(NETWORK, TASK, 30, 0.1, rng=1, **SHORT))
    assert np.abs(chains.energy[0] - chains.energy[1]).min() > 1e-6


def test_executors_change_nothing(chains):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert same(chains, mf.sample(NETWORK, TASK, 30, 0.1, rng=0, executor=pool, **SHORT))


@pytest.mark.slow
def test_chains_in_processes(chains):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert same(chains, mf.sample(NETWORK, TASK, 30, 0.1, rng=0, executor=pool, **SHORT))


def test_interrupted_chains_continue_to_the_same_bits(chains, tmp_path, monkeypatch):
    class Interrupt(BaseException):
        pass

    original, calls = hmc._Chain.advance, []

    def advance(self):
        calls.append(1)
        if len(calls) > 40:
            raise Interrupt
        original(self)

    monkeypatch.setattr(hmc._Chain, "advance", advance)
    monkeypatch.setattr(hmc, "_SECONDS", 0.0)
    monkeypatch.setattr(hmc, "_SHARE", 1e9)
    with pytest.raises(Interrupt):
        mf.sample(NETWORK, TASK, 30, 0.1, rng=0, checkpoint=tmp_path, **SHORT)
    monkeypatch.setattr(hmc._Chain, "advance", original)
    assert list(tmp_path.glob("chain-*.npz"))
    assert same(chains, mf.sample(NETWORK, TASK, 30, 0.1, rng=0, checkpoint=tmp_path, **SHORT))
    files = len(list(tmp_path.glob("*")))
    assert files == 2  # one per chain, nothing half-written
    # Finished chains are not run again.
    monkeypatch.setattr(hmc._Chain, "advance", advance)
    assert same(chains, mf.sample(NETWORK, TASK, 30, 0.1, rng=0, checkpoint=tmp_path, **SHORT))
    with pytest.raises(Interrupt):  # another problem has files of its own
        mf.sample(NETWORK, TASK, 30, 0.2, rng=0, checkpoint=tmp_path, **SHORT)
    with pytest.raises(ValueError, match="needs rng="):
        mf.sample(NETWORK, TASK, 30, 0.1, checkpoint=tmp_path, **SHORT)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of this kind do not exist on Windows")
def test_keyboard_interrupt_ends_threads_and_keeps_their_state(tmp_path):
    program = f"""
import signal

import meanfield as mf
from meanfield.sampling import hmc

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs start with it ignored
original, done = hmc._Chain.advance, []

def advance(self):
    original(self)
    done.append(1)
    if len(done) == 200:
        print("running", flush=True)

hmc._Chain.advance = advance
task = mf.class_task(n_classes=2, n_samples=10)
mf.sample(mf.Network("sigmoid"), task, 10, 0.1, draws=10**8, rng=0, chains=2, checkpoint={str(tmp_path)!r})
"""
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert "KeyboardInterrupt" in error
    assert process.returncode != 0
    assert len(list(tmp_path.glob("chain-*.npz"))) == 2


def test_stopping_saves(tmp_path):
    posed = module.problem(NETWORK, TASK, 10, 0.1)
    settings = hmc.Settings(5, 10, 1, 1.0, 0.8, 100, True)
    asked = []
    job = hmc.Job(posed, settings, np.random.SeedSequence(0), None, tmp_path / "one.npz", "key")
    with pytest.raises(hmc.Interrupted):
        hmc.run_chain(job, stop=lambda: asked.append(1) or len(asked) > 12)
    resumed, whole = hmc.run_chain(job), hmc.run_chain(hmc.Job(posed, settings, np.random.SeedSequence(0)))
    assert all(np.array_equal(resumed[name], whole[name], equal_nan=True) for name in whole)
    with pytest.warns(RuntimeWarning, match="damaged"):
        other = hmc.run_chain(hmc.Job(posed, settings, np.random.SeedSequence(0), None, tmp_path / "one.npz", "other"))
    assert all(np.array_equal(other[name], whole[name], equal_nan=True) for name in whole)


@pytest.mark.parametrize("kind", [np.random.SeedSequence, np.random.default_rng], ids=["SeedSequence", "Generator"])
def test_checkpoints_are_found_by_seed_sequences_and_generators(chains, tmp_path, monkeypatch, kind):
    rng = kind(0)
    assert same(chains, mf.sample(NETWORK, TASK, 30, 0.1, rng=rng, checkpoint=tmp_path, **SHORT))
    original = hmc._Chain.advance
    monkeypatch.delattr(hmc._Chain, "advance")  # nothing is left to do
    assert same(chains, mf.sample(NETWORK, TASK, 30, 0.1, rng=rng, checkpoint=tmp_path, **SHORT))
    monkeypatch.setattr(hmc._Chain, "advance", original, raising=False)
    assert len(list(tmp_path.iterdir())) == 2
    assert same(chains, mf.sample(NETWORK, TASK, 30, 0.1, rng=rng, **SHORT))
    assert not same(chains, mf.sample(NETWORK, TASK, 30, 0.1, rng=rng, **SHORT))  # without one each call is another


def changed(path, change):
    """The same archive with other arrays or header."""
    with np.load(path) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(path, **arrays)


DAMAGE = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "empty": lambda path: path.write_bytes(b""),
    "NaN": lambda path: changed(path, lambda a: a["x"].__setitem__(3, np.nan)),
    "times 3": lambda path: changed(path, lambda a: a.update(x=3 * a["x"])),
    "fewer records": lambda path: changed(path, lambda a: a.update(record_energy=a["record_energy"][:2])),
    "another iteration": lambda path: changed(
        path, lambda a: a.update(header=np.array(str(a["header"]).replace('"iteration": 38', '"iteration": 37')))
    ),
    "no header": lambda path: changed(path, lambda a: a.pop("header")),
    "no array": lambda path: changed(path, lambda a: a.pop("tally")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_checkpoints_are_redone(chains, tmp_path, damage):
    mf.sample(NETWORK, TASK, 30, 0.1, rng=0, checkpoint=tmp_path, **SHORT)
    damage(min(tmp_path.iterdir()))
    with pytest.warns(RuntimeWarning, match=r"chain-\w+\.npz is damaged .* starts again"):
        assert same(chains, mf.sample(NETWORK, TASK, 30, 0.1, rng=0, checkpoint=tmp_path, **SHORT))
    assert same(chains, mf.sample(NETWORK, TASK, 30, 0.1, rng=0, checkpoint=tmp_path, **SHORT))


def test_checkpoints_of_other_code_are_left_alone(tmp_path, monkeypatch):
    short = SHORT | {"draws": 4, "warmup": 4}
    mf.sample(NETWORK, TASK, 5, 0.1, rng=0, checkpoint=tmp_path, **short)
    monkeypatch.setattr(module, "source_hash", lambda _: "another version")
    mf.sample(NETWORK, TASK, 5, 0.1, rng=0, checkpoint=tmp_path, **short)
    assert len(list(tmp_path.iterdir())) == 4


def test_full_disk(chains, tmp_path, monkeypatch):
    def write(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hmc, "write_archive", write)
    monkeypatch.setattr(hmc, "_SECONDS", 0.0)
    with pytest.warns(RuntimeWarning, match="No space left") as caught:
        assert same(chains, mf.sample(NETWORK, TASK, 30, 0.1, rng=0, checkpoint=tmp_path, **SHORT))
    assert len(caught) == 2  # once per chain


@pytest.mark.skipif(os.name == "nt", reason="signals of this kind do not exist on Windows")
def test_killed_chains_continue_to_the_same_bits(tmp_path):
    """Killed without warning three times, in the middle of iterations and of writing; a state is on disk by then."""
    arguments = "mf.Network('sigmoid'), mf.class_task(n_classes=2, n_samples=10), 10, 0.1"
    options = {"draws": 600, "warmup": 300, "chains": 2, "rng": 0, "progress": False}
    program = f"""
import sys
import meanfield as mf
from meanfield.sampling import hmc

hmc._SECONDS = 0.02
original, done = hmc._Chain.advance, []

def advance(self):
    original(self)
    done.append(1)
    if len(done) == int(sys.argv[1]):
        print("running", flush=True)

hmc._Chain.advance = advance
mf.sample({arguments}, checkpoint={str(tmp_path)!r}, **{options!r})
"""
    for count in (150, 333, 100):
        process = subprocess.Popen([sys.executable, "-c", program, str(count)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"running\n"
        process.kill()
        process.wait(timeout=60)
        process.stdout.close()
    network, task = mf.Network("sigmoid"), mf.class_task(n_classes=2, n_samples=10)
    kept = list(tmp_path.glob("chain-*.npz"))
    assert len(kept) == 2
    resumed = mf.sample(network, task, 10, 0.1, checkpoint=tmp_path, **options)
    assert same(mf.sample(network, task, 10, 0.1, **options), resumed)


def test_thinning_and_continuing(chains):
    thin = mf.sample(NETWORK, TASK, 30, 0.1, rng=0, draws=4, warmup=30, chains=2, thin=2, progress=False)
    # Records draw no random numbers here, so every second draw is the same.
    np.testing.assert_array_equal(thin.energy, chains.energy[:, 1::2])
    more = mf.sample(NETWORK, TASK, 30, 0.1, rng=1, start=chains, draws=5, warmup=5, chains=2, progress=False)
    assert more.settings["start"] == "continued"
    _, states = module._starts(chains.problem, chains, [np.random.SeedSequence(0)] * 2)
    np.testing.assert_array_equal(states, chains.state_last)
    with pytest.raises(ValueError, match="2 chains of"):
        mf.sample(NETWORK, TASK, 31, 0.1, start=chains, **SHORT)


def test_planted_neurons():
    tau = 0.05
    post = mf.solve(NETWORK, TASK, tau=tau)
    posed = module.problem(NETWORK, TASK, 40, tau)
    x = planted(posed, post, np.random.default_rng(0))
    assert np.abs(posed.readout_std * posed.readout(x)).max() < 4 * np.abs([code.readout for code in post.codes]).max()
    work = posed.work()
    hmc.forward(posed.target(), x, posed.readout(x), work)
    assert np.abs(work.residual).max() < 0.5  # already close to its targets
    chains = mf.sample(NETWORK, TASK, 40, tau, rng=0, start=post, **SHORT)
    assert chains.settings["start"] == "planted"
    assert np.isfinite(chains.energy).all()
    neurons = post.sample_neurons(40, rng=0, samples_per_class=[10, 5, 5])
    x = weights_of(posed, neurons.readouts, [neurons.preactivations])
    hmc.forward(posed.target(), x, posed.readout(x), work)
    np.testing.assert_allclose(work.phi[0], neurons.activations, atol=1e-12)
    np.testing.assert_allclose(work.residual.T, neurons.output - posed.targets, atol=1e-12)
    with pytest.raises(ValueError, match="readouts"):
        mf.sample(NETWORK, TASK, 41, tau, start=neurons, **SHORT)
    with pytest.raises(ValueError, match="of depth 1, the network to be sampled of depth 2"):
        mf.sample(mf.Network("sigmoid", depth=2), TASK, 40, tau, start=post, **SHORT)
    with pytest.raises(ValueError, match="neurons of one layer"):
        mf.sample(mf.Network("sigmoid", depth=2), TASK, 40, tau, start=neurons, **SHORT)


def test_planted_layers_of_a_deep_network():
    """The first layer is exact; above it neurons keep their codes, and the outputs are near their targets."""
    network, task = mf.Network("sigmoid", depth=3), mf.class_task(targets=[1, -1], n_samples=40)
    shares = {"10": 0.6, "01": 0.4}
    post = mf.solve(network, task, 0.02, fractions=shares)
    posed = module.problem(network, task, 60, 0.02)
    x = planted(posed, post, np.random.default_rng(0))
    work = posed.work()
    hmc.forward(posed.target(), x, posed.readout(x), work)
    drawn = post.sample_neurons(60, rng=np.random.default_rng(0), samples_per_class=[20, 20], layer=1)
    np.testing.assert_allclose(work.phi[0], drawn.activations, atol=1e-12)
    active = work.phi[2].reshape(60, 2, 20).mean(axis=2) > 0.5
    assert active.sum(axis=0).tolist() == [36, 24]
    assert (active.sum(axis=1) == 1).all()
    assert np.abs(work.residual).max() < 0.5


def test_planted_code_counts_are_the_weights():
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5, n_samples=200)
    post = mf.solve(NETWORK, task, tau=0.02)
    posed = module.problem(NETWORK, task, 120, 0.02)
    x = planted(posed, post, np.random.default_rng(1))
    readout = posed.readout_std * posed.readout(x).T
    distance = np.linalg.norm(readout[:, None] - np.array([code.readout for code in post.codes]), axis=2)
    count = np.bincount(distance.argmin(axis=1), minlength=len(post.codes))
    assert np.abs(count - 120 * np.array([code.weight for code in post.codes])).max() < 1.0


def test_planted_neurons_of_a_data_task():
    """Fewer inputs than samples, and more: weights that give exactly the preactivations of the theory."""
    rng = np.random.default_rng(1)
    for n_inputs in (3, 20):
        task = mf.data_task(rng.standard_normal((8, n_inputs)), labels=[0, 1] * 4)
        post = mf.solve(mf.Network("linear"), task, tau=0.1)
        posed = module.problem(mf.Network("linear"), task, 12, 0.1)
        x = planted(posed, post, np.random.default_rng(5))
        neurons = post.sample_neurons(12, rng=np.random.default_rng(5))
        np.testing.assert_allclose(posed.weights(x)[0] @ posed.features.T, neurons.preactivations, atol=1e-11)
        np.testing.assert_allclose(posed.readout_std * posed.readout(x).T, neurons.readouts, atol=1e-12)
        chains = mf.sample(mf.Network("linear"), task, 12, 0.1, rng=0, start=post, **SHORT)
        assert chains.settings["start"] == "planted"


def test_data_with_and_without_labels():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((12, 3))
    labelled = mf.data_task(inputs, labels=np.repeat(["cat", "dog"], 6))
    chains = mf.sample(NETWORK, labelled, 10, 0.2, inputs=inputs[:4] + 0.1, rng=0, **SHORT)
    assert chains.prediction.shape == (2, 8, 4, 2)
    assert chains.n_groups == 2
    assert any("class cat" in name for name in chains.functionals())
    plain = mf.sample(NETWORK, mf.data_task(inputs, rng.standard_normal(12)), 10, 0.2, rng=0, **SHORT)
    assert plain.n_groups == 1
    assert plain.class_activation.shape == (2, 8, 10, 1)
    # On its own training inputs the predictor is the output.
    again = mf.sample(NETWORK, labelled, 10, 0.2, inputs=inputs, rng=0, **SHORT)
    np.testing.assert_allclose(again.prediction, labelled.targets - again.residual, atol=1e-10)


def test_files(chains, tmp_path):
    found = mf.Chains.load(chains.save(tmp_path / "chains"))
    assert same(chains, found)
    assert found.task == TASK
    assert found.network == NETWORK
    assert repr(found) == repr(chains)
    assert found.settings == chains.settings
    np.testing.assert_array_equal(found.activations(), chains.activations())
    data = mf.data_task(np.random.default_rng(0).standard_normal((6, 3)), labels=[0, 1] * 3)
    other = mf.sample(NETWORK, data, 5, 0.2, inputs=np.ones((2, 3)), rng=0, **SHORT)
    again = mf.Chains.load(other.save(tmp_path / "data.npz"))
    np.testing.assert_array_equal(again.task.inputs, data.inputs)
    np.testing.assert_array_equal(again.prediction, other.prediction)
    np.savez(tmp_path / "wrong.npz", a=1)
    with pytest.raises(ValueError, match="not a file written by meanfield"):
        mf.Chains.load(tmp_path / "wrong.npz")


def test_diagnostics_table(chains):
    found = chains.diagnostics()
    text = repr(found)
    assert "mean a^2" in text
    assert "R-hat" in text
    assert "chain 2: acceptance" in text
    values = chains.functionals()
    k = found.names.index("mean a^2")
    assert found.mean[k] == pytest.approx((chains.readout**2).mean())
    assert found.mcse[k] == mcse_mean(values["mean a^2"])
    many = mf.sample(NETWORK, mf.class_task(n_classes=5, n_samples=10), 6, 0.2, rng=0, **SHORT)
    assert "K1 between classes" in many.functionals()


def test_progress_is_shown(capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    mf.sample(NETWORK, TASK, 5, 0.5, rng=0, draws=4, warmup=6, chains=2, progress=True)
    assert "sampling" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": mf.Network("step")}, "step jumps at z = 0"),
        ({"network": "sigmoid"}, "needs a Network"),
        ({"task": mf.class_task(n_classes=2)}, "finite number of samples"),
        ({"task": mf.class_task(fractions=[0.5, 0.3, 0.2], n_samples=12)}, "whole numbers"),
        ({"width": 0}, "width"),
        ({"width": 2.5}, "width"),
        ({"tau": 0.0}, "tau must be a real number > 0"),
        ({"tau": float("nan")}, "tau"),
        ({"draws": 0}, "draws must be an integer"),
        ({"chains": True}, "chains must be an integer"),
        ({"length": -1.0}, "length"),
        ({"target_acceptance": 1.0}, "below 1"),
        ({"start": "cold"}, "start must be"),
        ({"start": 3}, "start must be"),
        ({"inputs": np.ones((2, 20))}, "a class task has no inputs"),
    ],
)
def test_refusals(change, message):
    arguments = {"network": NETWORK, "task": TASK, "width": 5, "tau": 0.1, **SHORT} | change
    with pytest.raises(ValueError, match=message):
        mf.sample(**arguments)


def test_the_witness_shares_no_solver_with_the_theory():
    """None of the modules that produce samples imports anything that solves the theory."""
    own = {"sample", "chains", "hmc", "plant", "problem", "compiled", "diagnostics", "claims"}
    folder = Path(meanfield.sampling.__file__).parent
    allowed = {"archive", "numerics", "activations", "problem", "progress", "sampling", "validation"}
    for name in own:
        tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("meanfield"):
                parts = node.module.split(".")
                checks = node.module == "meanfield.posterior.claims"  # of files, without a solver
                assert parts[1] in allowed or checks, f"{name} imports {node.module}"
                assert node.module not in ("meanfield.activations.cumulant", "meanfield.numerics.cumulant_table"), name
                if parts[1] == "sampling" and len(parts) > 2:
                    assert parts[2] in own
