"""Handwritten digits as pixels, random features and the layers of a small trained network."""

import numpy as np
import pytest
from margins import below, beyond
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from meanfield.geometry import (
    cka,
    glue,
    group_by_label,
    kernel_target_alignment,
    participation_ratio,
    simulated_capacity,
    trajectory,
)

pytestmark = pytest.mark.statistical

CLASSES = (0, 1, 2, 3, 5, 8)
POINTS = 30


@pytest.fixture(scope="module")
def layers():
    """Features (n, N) by name and labels (n,): pixels, an untrained layer, two trained layers."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels[np.isin(labels, CLASSES)] / 16.0
    labels = labels[np.isin(labels, CLASSES)]
    state = int(np.random.default_rng(0).integers(2**31))
    network = MLPClassifier((200, 100), solver="lbfgs", alpha=1e-3, max_iter=400, random_state=state).fit(
        pixels, labels
    )
    assert network.score(pixels, labels) == 1.0
    shown = np.concatenate(group_by_label(np.arange(len(pixels), dtype=float)[:, None], labels, POINTS, seed=0))
    shown = shown[:, 0].astype(int)
    pixels, labels = pixels[shown], labels[shown]
    random = np.maximum(pixels @ np.random.default_rng(1).standard_normal((64, 200)), 0.0)
    found = {"pixels": pixels, "random": random}
    features = pixels
    for name, weight, bias in zip(("first", "second"), network.coefs_, network.intercepts_):
        features = np.maximum(features @ weight + bias, 0.0)
        found[name] = features[:, (features > 0).any(axis=0)]
    return found, labels, network.predict_proba(pixels)


@pytest.mark.filterwarnings("ignore:.*general position.*:UserWarning", "ignore:.*inseparable.*:UserWarning")
@pytest.mark.parametrize("name", ["random", "first", "second"])
def test_simulation_equals_glue(layers, name):
    """The exact finite-size identity between random projections and the solution cone, on correlated real data."""
    features, labels, _ = layers
    simulated = simulated_capacity((features[name], labels), n_draws=160, seed=2)
    theory = glue((features[name], labels), n_probes=400, seed=3)
    error = np.hypot(simulated.standard_error, theory.standard_errors["capacity_faces"])
    assert below((simulated.capacity - theory.capacity_faces) / error)
    assert below(error / theory.capacity, 0.05, "error / capacity")
    identity = theory.utility * (1 + theory.radius**-2) / theory.dimension
    assert identity == pytest.approx(theory.capacity, rel=1e-10)


@pytest.mark.filterwarnings("ignore:.*general position.*:UserWarning", "ignore:.*inseparable.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*of the dichotomies have no solution:UserWarning")  # in some draws of the training
def test_training_untangles_the_digits(layers):
    """In a trained network capacity is larger, fewer directions are used, and outputs are aligned with the labels."""
    features, labels, outputs = layers
    path = trajectory(list(features.values()), y=labels, parameter=list(features), parameter_name="layer", seed=4)
    capacity = dict(zip(features, path["capacity"]))
    error = dict(zip(features, path["capacity_error"]))
    assert beyond((capacity["first"] - capacity["random"]) / error["first"], 5, "(first - random) / error")
    assert beyond((capacity["second"] - capacity["random"]) / error["second"], 5, "(second - random) / error")
    aligned = kernel_target_alignment(outputs, labels) / kernel_target_alignment(features["random"], labels)
    assert beyond(np.log(aligned), 0.2, "log of alignment, outputs / random")
    spread = {name: participation_ratio(x) for name, x in features.items()}
    assert below(spread["second"] / spread["random"], 0.9, "spread, second / random")
    kept = [cka(features["pixels"], features[name]) for name in ("random", "second")]
    assert beyond(kept[0] - kept[1], 0.0, "CKA, random - second")
