"""The kernel of one hidden layer at finite P, held against the equation of the outputs."""

import numpy as np
import pytest

import meanfield as mf


@pytest.mark.parametrize("name", ["sigmoid", "relu"])
@pytest.mark.parametrize(
    "task",
    [
        mf.class_task(targets=[1, -1], n_samples=100),
        mf.class_task([0.5, 0.25, 0.25], off=0.0, n_samples=100),
    ],
)
def test_outputs_are_regression_with_the_kernel(name, task):
    """y = (s [K diag(n) + diag(d)] + tau) t, s = sigma_a^2 / P: exact, so codes or a bulk may not be taken as Gaussian.

    A Gaussian bulk of ReLU is wrong by 4e-5 for two classes and 1e-3 for three.
    """
    tau = 0.05
    post = mf.solve(mf.Network(name), task, tau)
    kernel, n = post.kernel(), 100.0 * task.fractions
    own = kernel.block_diagonal - np.diag(kernel.block)
    matrix = (kernel.block * n + np.diag(own)) / 100.0 + tau * np.eye(len(n))
    np.testing.assert_allclose(matrix @ post.solution.t, task.targets, atol=1e-8)
