"""Solutions on real data against sampled networks: what is claimed of the outputs, and how far the networks are.

    MEANFIELD_DATA=FOLDER python benchmarks/data_networks.py [--chains 6] [--draws 300] [NAME ...]

Networks of N = 100 and 200 neurons are sampled, each chain is compared with the theory at its own fractions of codes
(with the equilibrium, where many of its neurons have codes that the theory lacks), and the outputs on the training
inputs are extrapolated in 1/N, since their deviations are of that order. "actual" is the root mean square of what
remains, beyond its noise ("+-", over chains); "claimed" the error and the standard error in the certificate.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from data_cases import cifar, digits, mnist, table

import meanfield as mf
from meanfield.posterior.division import pattern_of
from meanfield.sampling.statistics import all_shares, as_draws

WIDTHS, WARMUP, FACTORS = (100, 200), 300, (-1.0, 2.0)  # d(0) = 2 d(1/200) - d(1/100)


CASES = {  # task, phi, tau
    "digits 0, 1, 2, P = 90": (lambda: digits(30, 0.0, (0, 1, 2)), "sigmoid", 0.01),
    "the same, y_- = 1/2": (lambda: digits(30, 0.5, (0, 1, 2)), "sigmoid", 0.01),
    "MNIST 0, 1, 2, P = 99": (lambda: mnist(33, 0.0), "sigmoid", 0.01),
    "grey CIFAR-10, P = 60": (lambda: cifar(20, 0.0), "sigmoid", 0.1),
    "iris": (lambda: table("iris"), "sigmoid", 0.1),
    "wine": (lambda: table("wine"), "sigmoid", 0.1),
}


def _deviations(post, task, width, options):
    """Outputs of every chain minus those of the theory at its fractions of codes, (chains, P, m)."""
    chains = mf.sample(
        post.network, task, width, post.tau, draws=options.draws, warmup=WARMUP, chains=options.chains, start=post,
        inputs=task.inputs, rng=width, progress=False,
    )  # fmt: skip
    found = []
    for chain, share in enumerate(all_shares(as_draws(chains))):
        words = {pattern_of(word, task.n_classes): share[word] for word in np.flatnonzero(share > 0.5 / width)}
        try:
            theory = post.frozen(words)
        except ValueError:  # neurons are not on or off in every class: nothing freezes
            theory = post
        found.append(chains.prediction[chain].mean(axis=0) - theory.predict(task.inputs))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--chains", type=int, default=6)
    parser.add_argument("--draws", type=int, default=300)
    options = parser.parse_args()
    print(f"{'case':24}{'claimed':>9}{'+-':>9}{'N = 100':>9}{'N = 200':>9}{'actual':>9}{'+-':>9}  status, cpu s")
    for name, (make, phi, tau) in CASES.items():
        if options.names and not any(word in name for word in options.names):
            continue
        start, task = time.process_time(), make()
        post = mf.solve(mf.Network(phi), task, tau, on_failure="return")
        off = [_deviations(post, task, width, options) for width in WIDTHS]
        at = [values.mean(axis=0) for values in off]
        square = [values.var(axis=0, ddof=1).mean() / options.chains for values in off]
        limit = sum(factor * values for factor, values in zip(FACTORS, at))
        noise = sum(factor**2 * value for factor, value in zip(FACTORS, square))
        raw = np.mean(limit**2)
        print(
            f"{name:24}{post.certificate.output_error:9.5f}{post.certificate.output_error_se:9.5f}"
            + "".join(f"{np.sqrt(np.mean(values**2)):9.5f}" for values in at)
            + f"{np.sqrt(max(0.0, raw - noise)):9.5f}{np.sqrt(noise):9.5f}"
            f"  {post.status}, {time.process_time() - start:.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
