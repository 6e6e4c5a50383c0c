"""What no argument may be: each is refused with words that name the argument, whatever its type."""

import numpy as np
import pytest
import sympy as sp

import meanfield as mf

Z = sp.Symbol("z", real=True)
HUGE = 10**400
NO_SCALE = [
    HUGE,
    -HUGE,
    10**5000,
    "1",
    b"1",
    True,
    None,
    float("nan"),
    float("inf"),
    0,
    -1.0,
    1j,
    [1.0, 2.0],
    {},
    1e200,
    object(),
]
NO_COUNT = [HUGE, -HUGE, 10**5000, "1", None, 1.5, True, 0, -1, 1j, [1], float("nan"), np.float64(2.0), {}, object()]
NO_ROW = [HUGE, "abc", None, [HUGE, 1], [1, "a"], [1j, 0], [None, 1], [float("nan"), 1], [[1, 0], [0]], {}, [],
    object(),
          np.ma.masked_array([0.5, 0.5], [True, False])]  # fmt: skip
CODE = "__import__('os').mkdir('ran')"


@pytest.fixture(scope="module")
def network():
    return mf.Network("tanh")


def cases():
    for value in NO_SCALE:
        yield "sigma_a", lambda v=value: mf.Network("tanh", sigma_a=v)
        yield "sigma_w", lambda v=value: mf.Network("tanh", sigma_w=v)
    for value in (v for v in NO_SCALE if not (isinstance(v, (int, float)) and abs(v) < 1e300) or isinstance(v, bool)):
        yield "tau", lambda v=value: mf.solve(mf.Network("tanh"), mf.class_task(n_classes=2), tau=v)
        yield "on", lambda v=value: mf.class_task(n_classes=2, on=v) if v is not None else mf.class_task(on=v)
        yield "gain", lambda v=value: mf.activation("tanh", gain=v)
        yield "scale", lambda v=value: mf.data_task([[1.0], [2.0]], [1, 2], scale=v if v is not None else "x")
        yield "a", lambda v=value: mf.Activation(sp.tanh(sp.Symbol("a") * Z), Z, parameters={"a": v})
    for value in NO_COUNT:
        yield "depth", lambda v=value: mf.Network("tanh", depth=v)
        yield "n_classes", lambda v=value: mf.class_task(n_classes=v) if v is not None else mf.class_task()
        yield "max_boxes", lambda v=value: mf.solve(mf.Network("tanh"), mf.class_task(n_classes=2), max_boxes=v)
    for value in (HUGE * 10**4000, "1", None, 1j, 0, -1, float("nan"), [1], True, {}):
        yield "n_samples", lambda v=value: mf.class_task(n_classes=2, n_samples=v)
    for value in NO_ROW:
        yield "fractions", lambda v=value: mf.class_task(v if v is not None else "x")
        yield "targets", lambda v=value: mf.class_task(targets=v if v is not None else "x")
        yield "X", lambda v=value: mf.data_task(v, [0, 1])
        yield "Y", lambda v=value: mf.data_task([[1.0], [2.0]], v if v is not None else "x")
        yield "center", lambda v=value: mf.data_task([[1.0, 2.0], [2.0, 3.0]], [0, 1], center=v)
    for value in (None, 1, [], {}, "no", "Sigmoid", "z/(1+Abs(z))", CODE, sp.Integer(1), sp.true, object(), ["relu"]):
        yield "activation|preactivation", lambda v=value: mf.Network(v)
        yield "activation|preactivation|Network", lambda v=value: mf.equations(v)
        yield "network", lambda v=value: mf.solve(v, mf.class_task(n_classes=2))
        yield "task", lambda v=value: mf.solve(mf.Network("tanh"), v)
        yield "scaling", lambda v=value: mf.Network("tanh", scaling=v)
        yield "on_failure", lambda v=value: mf.solve(mf.Network("tanh"), mf.class_task(n_classes=2), on_failure=v)
    for value in (1, "warm", object(), [], {}):
        yield "warm_start", lambda v=value: mf.solve(mf.Network("tanh"), mf.class_task(n_classes=2), warm_start=v)
        yield "class_names", lambda v=value: mf.class_task(n_classes=2, class_names=v or 3)
    for expression in (sp.Function("f")(Z), sp.Function(CODE)(Z), sp.IndexedBase(CODE)[1] * Z, Z * sp.Symbol(CODE)):
        yield "function|symbol", lambda v=expression: mf.Activation(v, Z)


CASES = list(cases())


@pytest.mark.parametrize("number", range(len(CASES)))
def test_bad_arguments_are_named(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, call = CASES[number]
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert len(str(caught.value)) < 500
    assert not list(tmp_path.iterdir())


def test_equations_by_name():
    assert mf.equations("relu").cumulant == mf.equations(mf.Network("relu")).cumulant


def test_bound_symbols_of_any_name_are_only_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n = sp.Symbol(CODE)
    phi = mf.Activation(sp.tanh(Z) * sp.Sum(1 / n**2, (n, 1, 5)), Z)
    assert phi(0.5) == pytest.approx(np.tanh(0.5) * sum(1 / k**2 for k in range(1, 6)), rel=1e-14)
    assert mf.Activation(sp.tanh(sp.Symbol(CODE)), sp.Symbol(CODE))(0.5) == np.tanh(0.5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "phi",
    [
        Z / (1 + sp.Abs(Z)), 0.12345678901234567 * sp.tanh(Z), sp.Float("0.1234567890123456789012", 22) * sp.tanh(Z),
        sp.exp(-sp.exp(-Z)), sp.Piecewise((0, Z < 0), (Z, True)), sp.Piecewise((-1, Z < -1), (1, Z > 1), (Z, True)),
        sp.Max(-1, sp.Min(1, Z)), Z * (1 + sp.erf(Z / sp.sqrt(2))) / 2, sp.log(1 + sp.exp(Z)), sp.atan(Z) / sp.pi,
        Z * sp.tanh(sp.log(1 + sp.exp(Z))), sp.Rational(10**30 + 1, 3 * 10**30) * sp.tanh(Z), 1e-10 * sp.tanh(Z),
        sp.Symbol("a") * sp.tanh(Z / sp.Symbol("b_1")), sp.sin(Z), sp.Heaviside(Z - sp.Rational(1, 3)) * sp.tanh(Z),
        2 * sp.Symbol("a") * sp.tanh(Z) * (1 + sp.Symbol("a")) / 3,
    ],
)  # fmt: skip
def test_expressions_survive_a_file_bit_for_bit(phi):
    names = {s.name: 0.1 + 1 / 3 for s in phi.free_symbols if s != Z}
    network = mf.Network(mf.Activation(phi, Z, parameters=names))
    described = network.to_dict()
    assert "unreadable" not in described["activation"]
    back = mf.Network.from_dict(described)
    assert back == network
    assert sp.srepr(back.activation.formula) == sp.srepr(network.activation.formula)


def test_what_no_formula_describes_is_refused_when_it_is_saved(tmp_path):
    from meanfield.archive import write_archive

    n = sp.Symbol("n")
    network = mf.Network(mf.Activation(sp.tanh(Z) * sp.Sum(1 / n**2, (n, 1, 5)), Z))
    assert "Sum" in network.to_dict()["activation"]["unreadable"]
    with pytest.raises(ValueError, match=r"a file cannot hold this nonlinearity.*Sum"):
        write_archive(tmp_path / "file", "posterior", {"network": network.to_dict()}, {})
