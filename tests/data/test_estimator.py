"""The scikit-learn estimators: conventions, and agreement with `solve`."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris, load_wine, make_regression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import meanfield as mf
from meanfield.estimator import NonLazyClassifier, NonLazyRegressor


@parametrize_with_checks(
    [
        NonLazyClassifier(),
        NonLazyClassifier("erf", lazy=True),
        NonLazyRegressor(),
        NonLazyRegressor("relu", lazy=True),
    ]
)
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("activation", "lazy"), [("linear", False), ("sigmoid", True)])
def test_predictions_are_those_of_the_theory(activation, lazy):
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    fitted = NonLazyClassifier(activation, tau=0.1, lazy=lazy, off=-0.5).fit(X[::2], names[::2])
    task = mf.data_task(X[::2], labels=names[::2], off=-0.5, center=True, scale="rms")
    network = mf.Network(activation, scaling="lazy" if lazy else "non-lazy")
    posterior = mf.solve(network, task, tau=0.1)
    outputs = posterior.predict(X)
    assert np.array_equal(fitted.decision_function(X), outputs)
    assert np.array_equal(fitted.predict(X), fitted.classes_[outputs.argmax(axis=1)])
    assert fitted.certificate_ == posterior.certificate
    assert fitted.codes_ == posterior.codes == ()


def test_two_classes_share_one_decision():
    X, y = load_iris(return_X_y=True)
    X, y = X[y > 0], y[y > 0]
    fitted = NonLazyClassifier("linear", tau=0.1).fit(X, y)
    decision = fitted.decision_function(X)
    assert decision.shape == (100,)
    assert np.array_equal(fitted.predict(X), np.where(decision > 0, 2, 1))
    mirrored = NonLazyClassifier("linear", tau=0.1, on=0.0, off=1.0).fit(X, y)  # the own output is the small one
    assert np.mean(mirrored.predict(X) == fitted.predict(X)) > 0.95


@pytest.mark.parametrize(("on", "off"), [(1.0, 0.0), (0.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_largest_decision_is_the_prediction(on, off, n_classes):
    X, y = load_digits(n_class=n_classes, return_X_y=True)
    fitted = NonLazyClassifier(tau=0.1, on=on, off=off).fit(X[:60], y[:60])
    decision = fitted.decision_function(X)
    found = (decision > 0).astype(int) if n_classes == 2 else decision.argmax(axis=1)
    assert np.array_equal(fitted.predict(X), found)
    assert np.mean(found == y) > 0.85


@pytest.mark.parametrize("activation", ["linear", "erf"])
def test_a_rare_class_does_not_swallow_the_common_one(activation):
    """Odd networks on centred inputs have no constant output: the mean target must come from elsewhere."""
    X, y = load_digits(return_X_y=True)
    chosen = np.concatenate([np.flatnonzero(y == 8)[:150], np.flatnonzero(y == 9)[:15]])
    train, test = chosen[::2], chosen[1::2]
    model = NonLazyClassifier(activation, lazy=activation != "linear", tau=1e-4).fit(X[train], y[train])
    assert model.score(X[test], y[test]) > 0.95
    np.testing.assert_allclose(model.target_center_, [75 / 83, 8 / 83])
    # With an intercept the sum of the outputs is that of the targets.
    outputs = model.posterior_.predict(X[test]) + model.target_center_
    np.testing.assert_allclose(outputs.sum(axis=1), 1.0, atol=1e-6)
    assert np.all(NonLazyClassifier("sigmoid", lazy=True).fit(X[train], y[train]).target_center_ == 0.0)


def test_centred_one_hot_targets_can_be_interpolated():
    X, y = load_digits(n_class=3, return_X_y=True)
    model = NonLazyClassifier(tau=0.0).fit(X[:25], y[:25])
    assert model.score(X[:25], y[:25]) == 1.0


def test_a_nonlinear_network_has_codes():
    X, y = load_digits(n_class=3, return_X_y=True)
    fitted = NonLazyClassifier("sigmoid", tau=0.1, on_failure="raise").fit(X[:45], y[:45])
    assert fitted.certificate_.kkt_residual < 1e-4
    assert {code.pattern for code in fitted.codes_} >= {"011", "101", "110"}
    assert sum(code.weight for code in fitted.codes_) == pytest.approx(1.0, abs=1e-9)
    assert fitted.score(X[45:], y[45:]) > 0.9


def test_a_table_of_few_features_as_a_newcomer_would():
    """Wine, 13 features on very different scales, in a pipeline."""
    X, y = load_wine(return_X_y=True)
    train, test, labels, truth = train_test_split(X, y, train_size=90, stratify=y, random_state=0)
    model = make_pipeline(StandardScaler(), NonLazyClassifier("sigmoid", tau=0.1, on_failure="raise"))
    model.fit(train, labels)
    assert model.score(test, truth) > 0.95
    assert model[-1].posterior_.status == "optimal"
    assert len(model[-1].codes_) >= 2


def test_regression_is_equivariant():
    X, y = make_regression(n_samples=40, n_features=5, n_targets=2, random_state=0)
    fitted = NonLazyRegressor("linear", tau=0.01).fit(X, y)
    shifted = NonLazyRegressor("linear", tau=0.01).fit(X + 3.0, 5.0 * y - 7.0)
    np.testing.assert_allclose(shifted.predict(X + 3.0), 5.0 * fitted.predict(X) - 7.0, rtol=1e-9, atol=1e-8)
    assert fitted.score(X, y) > 0.99
    one = NonLazyRegressor("linear", tau=0.01).fit(X, y[:, 0])
    assert one.predict(X).shape == (40,)


def test_model_selection_over_the_prior():
    X, y = load_digits(n_class=3, return_X_y=True)
    search = GridSearchCV(NonLazyClassifier("relu", lazy=True), {"sigma_w": [0.5, 2.0], "tau": [0.01, 1.0]}, cv=3)
    search.fit(X[:150], y[:150])
    assert search.best_score_ > 0.9
    assert search.score(X[150:], y[150:]) > 0.9


def test_refusals():
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="tau"):
        NonLazyClassifier(tau=-1.0).fit(X, y)
    with pytest.raises(ValueError, match="activation"):
        NonLazyClassifier("no such").fit(X, y)
    with pytest.raises(ValueError, match="on_failure"):
        NonLazyClassifier("linear", on_failure="ignore").fit(X, y)
    with pytest.raises(ValueError, match="two classes"):
        NonLazyClassifier("linear").fit(X, np.zeros(len(X)))
