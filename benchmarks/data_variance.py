"""Which deviations of sampled networks from expectation propagation the correction removes.

    MEANFIELD_DATA=FOLDER python benchmarks/data_variance.py [--chains 4] [--draws 400] [--width 100] [NAME ...]

Both solutions on test images: how far they are apart, also as a share of the way to the lazy network. Chains (planted
from the corrected solution, of the given width) are compared with both at their own fractions of codes: root mean
square of the difference of the outputs on test images, the place of the chains on the line from lazy network to theory,
and the variance of the outputs within a chain over that of the theory; +- are standard errors over chains. "noise" is
`prediction_error` of the corrected solution on test images, "distance" that of expectation propagation, measured in the
same way. `--chains 0` leaves chains out.

The last lines are about the variance of small samples of the prior, with and without their halves, over that of a
quadrature (rank 3, two outputs).
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np

CASES = {  # phi, tau, off, wrong labels
    "digits 90, wrong label": ("sigmoid", 0.01, 0.0, 1),
    "MNIST 99, 0": ("sigmoid", 0.01, 0.0, 0),
    "MNIST 99, 1/2": ("sigmoid", 0.01, 0.5, 0),
    "ReLU, MNIST 99, 1/2": ("relu", 0.05, 0.5, 0),
}
WARMUP = 200


def _rms(x):
    return float(np.sqrt(np.mean(x**2)))


def _compared(post, chains, images, lazy, neurons):
    """rms difference of outputs, place from lazy to theory, ratio of variances: an array (chains, 3)."""
    from meanfield.posterior.division import pattern_of
    from meanfield.sampling.statistics import all_shares, as_draws

    found = []
    for chain, share in enumerate(all_shares(as_draws(chains))):
        words = {pattern_of(word, 3): share[word] for word in np.flatnonzero(share > 0.5 / neurons)}
        theory = post.frozen(words)
        mean, variance = theory.predict(images, True, width=neurons)
        sampled = chains.prediction[chain]
        off, way = sampled.mean(axis=0) - lazy, mean - lazy
        found.append(
            (_rms(off - way), np.vdot(off, way) / np.vdot(way, way), sampled.var(axis=0).mean() / variance.mean())
        )
    return np.array(found)


def _small_samples(samples: int = 400) -> None:
    """Mean of the variance over samples of the prior, over that of a quadrature, minus one."""
    import itertools
    from dataclasses import replace

    import meanfield as mf
    from meanfield.theories.general_data.exact.check import Sampler
    from meanfield.theories.general_data.exact.correct import correct
    from meanfield.theories.general_data.exact.particles import halves, particle_solution
    from meanfield.theories.general_data.exact.predictor import ParticlePredictor
    from meanfield.theories.general_data.exact.proposal import prior_mixture
    from meanfield.theories.general_data.exact.unaided import blank

    x = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
    y = np.column_stack([x.min(axis=1) > 0, x.max(axis=1) > 0]) * 1.0
    network, task = mf.Network("sigmoid", sigma_w=1.5), mf.data_task(x, y, center=False, scale=None)
    problem = blank(network.activation, task.features(1.5).matrix, task.targets, 1.0, 0.1)
    rng = np.random.default_rng(0)
    exact, _ = correct(Sampler(problem, None, rng, prior_mixture(3)), np.zeros(y.shape))
    new = rng.normal(size=(10, 3))
    expected = ParticlePredictor(network, task, 0.1, exact, ("code",)).variance(new, 1.0).mean()
    for n in (120, 250, 500):
        ratio, effective = [], []
        for _ in range(samples):
            sample = replace(prior_mixture(3).sample(problem, n, rng), half=np.arange(n) % 2)
            t, at, _ = exact.dual.minimise(sample, np.array(exact.t))
            own = np.array([exact.dual.minimise(part, t)[0] for part in halves(sample)])
            found = particle_solution(problem, sample, at, t, np.zeros(n, dtype=int), 0, own)
            predictor = ParticlePredictor(network, task, 0.1, found, ("code",))
            plain = replace(predictor, solution=replace(found, half=found.half[:0]))
            ratio.append([one.variance(new, 1.0).mean() for one in (plain, predictor)])
            effective.append(at.effective)
        off, error = np.mean(ratio, axis=0) / expected - 1.0, np.std(ratio, axis=0) / expected / np.sqrt(samples)
        print(
            f"{n} points, {np.mean(effective):.0f} effective: variance {off[0]:+.2%} +- {error[0]:.2%}, with halves "
            f"{off[1]:+.2%} +- {error[1]:.2%}",
            flush=True,
        )


def main() -> None:
    import meanfield as mf

    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--width", type=int, default=100)
    options = parser.parse_args()
    for name, (phi, tau, off, wrong) in CASES.items():
        if options.names and not any(word in name for word in options.names):
            continue
        start = time.process_time()
        images = mf.datasets.mnist(os.environ["MEANFIELD_DATA"], "test") if "MNIST" in name else mf.datasets.digits()
        train, test = images.classes(0, 1, 2).split(99 if "MNIST" in name else 90, 399, rng=0)
        labels = np.unique(train.labels, return_inverse=True)[1]
        labels[:wrong] = (labels[:wrong] + 1) % 3
        task, network = mf.data_task(train.images, labels=labels, on=1.0, off=off), mf.Network(phi)
        pair = [mf.solve(network, task, tau, refine=refine, on_failure="return") for refine in (False, True)]
        lazy = mf.solve(mf.Network(phi, scaling="lazy"), task, tau).predict(test.images)
        rough, exact = (post.predict(test.images) for post in pair)
        largest = [float(np.abs(task.targets - post.predictions).max()) for post in pair]
        print(
            f"{name}: {pair[0].status}, {pair[1].status}, {len(pair[0].codes)} and {len(pair[1].codes)} codes; "
            f"outputs {_rms(exact - rough):.5f} apart, {_rms(exact - rough) / _rms(lazy - rough):.2%} of the way to "
            f"lazy; training +- {pair[1].certificate.output_error_se:.5f}, "
            f"noise {_rms(pair[1].prediction_error(test.images).standard_error):.5f}, "
            f"distance {_rms(pair[0].prediction_error(test.images).difference):.5f}, "
            f"largest residual {largest[1] / largest[0]:.4f}",
            flush=True,
        )
        if options.chains and phi != "relu":
            chains = mf.sample(
                network, task, options.width, tau, draws=options.draws, warmup=WARMUP, chains=options.chains,
                start=pair[1], inputs=test.images, rng=0, progress=False,
            )  # fmt: skip
            for title, post in zip(("expectation propagation", "corrected"), pair):
                values = _compared(post, chains, test.images, lazy, options.width)
                mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))
                print(
                    f"    {title:24} rms {mean[0]:.5f} +- {error[0]:.5f}, place {mean[1]:.4f} +- {error[1]:.4f}, "
                    f"variance {mean[2]:.4f} +- {error[2]:.4f}",
                    flush=True,
                )
        print(f"    cpu {time.process_time() - start:.0f} s", flush=True)
    if not options.names or any(word in "small samples" for word in options.names):
        _small_samples()


if __name__ == "__main__":
    main()
