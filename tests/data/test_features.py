"""Feature factor of a kernel: K of any rank, from inputs or from the kernel itself, and new inputs."""

import numpy as np
import pytest

from meanfield.problem.features import features_from_inputs, features_from_kernel


def problem(n, n_inputs, seed=0, n_new=7):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, n_inputs)), rng.standard_normal((n_new, n_inputs))


@pytest.mark.parametrize(("n", "n_inputs"), [(12, 5), (5, 12), (6, 6), (1, 4)])
@pytest.mark.parametrize("sigma_w", [1.0, 1.7])
def test_factor_and_projection_reproduce_the_joint_kernel(n, n_inputs, sigma_w):
    x, new = problem(n, n_inputs)
    everything = np.vstack([x, new])
    joint = sigma_w**2 * everything @ everything.T / n_inputs
    features = features_from_inputs(x, sigma_w)
    projected, residual = features.project(new)
    assert features.rank == min(n, n_inputs)
    np.testing.assert_allclose(features.kernel, joint[:n, :n], atol=1e-13)
    np.testing.assert_allclose(projected @ features.matrix.T, joint[n:, :n], atol=1e-13)
    np.testing.assert_allclose((projected**2).sum(1) + residual, np.diag(joint)[n:], atol=1e-13)
    assert (residual >= 0).all()
    assert (residual.max() > 0.01) == (n < n_inputs)


def test_inputs_and_their_kernel_give_the_same_up_to_a_rotation():
    x, new = problem(10, 6)
    from_inputs = features_from_inputs(x)
    from_kernel = features_from_kernel(x @ x.T / 6)
    assert from_kernel.rank == from_inputs.rank == 6
    projected, residual = from_kernel.project(new @ x.T / 6, (new**2).sum(1) / 6)
    expected, expected_residual = from_inputs.project(new)
    np.testing.assert_allclose(projected @ from_kernel.matrix.T, expected @ from_inputs.matrix.T, atol=1e-12)
    np.testing.assert_allclose(residual, expected_residual, atol=1e-12)


def test_duplicated_and_dependent_inputs_lower_the_rank():
    x, _ = problem(4, 9)
    x = np.vstack([x, x[:2], x[0] + 2 * x[1], np.zeros(9)])
    features = features_from_inputs(x)
    assert features.rank == 4
    np.testing.assert_allclose(features.kernel, x @ x.T / 9, atol=1e-13)
    assert np.linalg.norm(features.matrix[4:6] - features.matrix[:2]) < 1e-13
    again = features_from_kernel(x @ x.T / 9)
    assert again.rank == 4


def test_training_inputs_project_onto_their_own_features():
    x, _ = problem(6, 20)
    features = features_from_inputs(x)
    projected, residual = features.project(x)
    np.testing.assert_allclose(projected, features.matrix, atol=1e-14)
    assert not residual.any()


def test_an_input_orthogonal_to_the_training_inputs_has_only_a_residual():
    x = np.eye(5)[:3]
    projected, residual = features_from_inputs(x, 2.0).project(np.eye(5)[4:])
    assert not projected.any()
    np.testing.assert_allclose(residual, 4 / 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: features_from_inputs(np.zeros((3, 2))), "all inputs are zero"),
        (lambda: features_from_inputs(np.ones(3)), r"shape \(P, N_0\)"),
        (lambda: features_from_inputs([[np.nan, 1.0]]), "finite"),
        (lambda: features_from_kernel(np.ones((2, 3))), r"shape \(P, P\)"),
        (lambda: features_from_kernel([[1.0, 0.2], [0.3, 1.0]]), "symmetric"),
        (lambda: features_from_kernel([[1.0, 2.0], [2.0, 1.0]]), "positive semidefinite"),
        (lambda: features_from_kernel(np.zeros((2, 2))), "zero or negative"),
        (lambda: features_from_inputs(np.eye(3)).project(np.ones((2, 4))), r"shape \(n, 3\)"),
        (lambda: features_from_inputs(np.eye(3)).project(np.ones((2, 3)), np.ones(2)), "is for kernels"),
        (lambda: features_from_kernel(np.eye(3)).project(np.ones((2, 3))), "give diagonal="),
        (lambda: features_from_kernel(np.eye(3)).project(np.ones((2, 3)), np.ones(3)), r"shape \(2,\)"),
        (lambda: features_from_kernel(np.eye(3)).project(np.ones((2, 3)), np.ones(2)), "is not positive"),
    ],
)
def test_bad_input_is_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
