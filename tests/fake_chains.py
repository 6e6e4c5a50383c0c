"""Chains made of given neurons, with the fields that statistics read."""

from types import SimpleNamespace

import numpy as np

import meanfield as mf

TASK = mf.class_task([0.5, 0.25, 0.25], off=0.5, n_samples=16)
LABELS = np.repeat([0, 1, 2], [8, 4, 4])


def fake_chains(network, readout, activation, labels=LABELS, task=TASK, **more):
    """Chains made of given neurons: phi is the same on all samples of a class."""
    n = readout.shape[2]
    full = activation[..., labels]
    gram = np.einsum("kdnc,kdne->kdce", activation, activation)[:, :, None] / n
    output = np.einsum("kdni,kdnp->kdpi", readout, full) / n
    return SimpleNamespace(
        network=network, task=task, width=n, tau=0.1, labels=labels, readout=readout, class_activation=activation,
        kernel_between=gram, kernel_diagonal=np.einsum("kdlcc->kdlc", gram),
        residual=task.targets[labels] - output, **more,
    )  # fmt: skip
