"""Entry points of the package, with the words of their refusals and the bad values that are not bad for them."""

from functools import cache

import numpy as np

import meanfield as mf
from meanfield.estimator import NonLazyClassifier, NonLazyRegressor
from meanfield.posterior.posterior import Posterior
from meanfield.sampling.chains import Chains

X, LABELS = np.random.Generator(np.random.PCG64(0)).standard_normal((12, 6)), [0, 1] * 6
TWO = {"n_classes": 2}
FEW = {"draws": 4, "warmup": 4, "chains": 2, "progress": False, "rng": 0}
NO_KIND = ("Network", "activation", "preactivation", "task", "SymPy", "nonlinearity")


@cache
def network():
    return mf.Network("sigmoid")


@cache
def two(**options):
    return mf.class_task(n_classes=2, **options)


@cache
def data():
    return mf.data_task(X, labels=LABELS)


@cache
def chains() -> Chains:
    return mf.sample(network(), two(n_samples=20), 6, 0.1, draws=8, warmup=8, chains=2, progress=False, rng=0)


@cache
def images():
    return mf.datasets.ImageSet(np.arange(108).reshape(12, 3, 3), np.array(["a", "b"] * 6))


PROBLEMS = {
    "codes": lambda: (network(), two(), 0.0),
    "finite P": lambda: (network(), two(n_samples=20), 0.1),
    "outliers": lambda: (mf.Network("relu"), two(), 0.0),
    "linear": lambda: (mf.Network("linear"), two(), 0.1),
    "deep codes": lambda: (mf.Network("sigmoid", depth=2), mf.class_task(targets=[1, -1]), 0.1),
    "linear data": lambda: (mf.Network("linear"), data(), 0.1),
    "lazy data": lambda: (mf.Network("tanh", scaling="lazy", depth=2), data(), 0.1),
    "general data": lambda: (network(), data(), 0.5),
}


@cache
def posterior(name) -> Posterior:
    return mf.solve(*PROBLEMS[name]())


ENTRIES = {}


def entry(name, call, words, taken=()):
    """Add an entry point: the call on a value, one of the words of its refusals, and the kinds that it takes."""
    ENTRIES[name] = (call, (words,) if isinstance(words, str) else tuple(words), frozenset(taken))


# ---- problems ------------------------------------------------------------------------------------

for name in ("sigma_a", "sigma_w", "depth", "scaling"):
    entry(f"Network.{name}", lambda v, n=name: mf.Network("tanh", **{n: v}), name)
    entry(f"Network.with_.{name}", lambda v, n=name: network().with_(**{n: v}), name)
entry("Network", mf.Network, NO_KIND, ("symbol",))
entry("activation", mf.activation, NO_KIND, ("symbol",))
entry("activation.gain", lambda v: mf.activation("tanh", gain=v), "gain")
entry("Activation", lambda v: mf.Activation(v, v), "SymPy", ("symbol",))
entry("class_task.n_classes", lambda v: mf.class_task(n_classes=v), ("n_classes", "number of classes"))
entry("class_task.on", lambda v: mf.class_task(**TWO, on=v), "on", ("None",))
entry("class_task.off", lambda v: mf.class_task(**TWO, off=v), "off", ("None",))
entry("class_task.n_samples", lambda v: mf.class_task(**TWO, n_samples=v), "n_samples", ("inf",))
entry("class_task.fractions", lambda v: mf.class_task(fractions=v), ("fractions", "number of classes"))
entry("class_task.targets", lambda v: mf.class_task(targets=v), ("targets", "target", "at least two", "number of"),
      ("list",))  # fmt: skip
entry("class_task.class_names", lambda v: mf.class_task(**TWO, class_names=v), "class_names", ("empty list",))
entry("class_task.with_.fractions", lambda v: two().with_(fractions=v), ("fractions", "number of classes"), ("None",))
entry("data_task.X", lambda v: mf.data_task(v, [0.0, 1.0]), ("X", "inputs", "targets", "Y"), ())
entry("data_task.Y", lambda v: mf.data_task([[1.0, 0], [0, 1.0]], v), ("Y", "targets", "labels"), ("list",))
entry("data_task.labels", lambda v: mf.data_task([[1.0, 0], [0, 1.0]], labels=v), ("labels", "targets", "class"),
      ("list",))  # fmt: skip
entry("data_task.center", lambda v: mf.data_task(X, labels=LABELS, center=v), "center", ("true", "NumPy true"))
entry("data_task.scale", lambda v: mf.data_task(X, labels=LABELS, scale=v), "scale", ("None",))
entry("data_task.on", lambda v: mf.data_task(X, labels=LABELS, on=v), "on")
entry("data_task.off", lambda v: mf.data_task(X, labels=LABELS, off=v), "off")
entry("data_task.class_names", lambda v: mf.data_task(X, labels=LABELS, class_names=v), ("class_names", "class names"),
      ("None", "empty list"))  # fmt: skip
entry("DataTask.transform", lambda v: data().transform(v), "inputs")
entry("DataTask.targets_of", lambda v: data().targets_of(v, 12), ("targets", "class", "labels"))
entry("DataTask.class_index", lambda v: data().class_index(v, 12), ("class", "labels"))

# ---- solve, equations, load ----------------------------------------------------------------------

entry("solve.network", lambda v: mf.solve(v, two()), "network")
entry("solve.task", lambda v: mf.solve(network(), v), "task")
entry("solve.tau", lambda v: mf.solve(network(), two(), v), "tau")
entry("solve.tau of data", lambda v: mf.solve(mf.Network("linear"), data(), v), "tau")
for name in ("max_boxes", "rtol", "max_seconds", "refine", "progress", "on_failure", "warm_start"):
    none = () if name in ("max_boxes", "on_failure") else ("None",)
    flags = ("true", "NumPy true") if name in ("refine", "progress") else ()
    entry(f"solve.{name}", lambda v, n=name: mf.solve(network(), two(), **{n: v}), name, none + flags)
entry("equations", mf.equations, NO_KIND, ("symbol",))
entry("equations.task", lambda v: mf.equations(network(), v), "task", ("None",))
entry("load", mf.load, ("path", "no file"))

# ---- answers of every theory ---------------------------------------------------------------------

GRID = ("true", "NumPy true", "list", "array", "many axes", "beyond")  # real numbers, or arrays of them
NOT = ("is not available", "sum of deltas")
for name in PROBLEMS:
    of_data, deep = "data" in name, name.startswith("deep")

    def ask(method, *before, of=name, **options):
        return lambda v: getattr(posterior(of), method)(*before, v, **options)

    entry(f"{name}: save", ask("save"), ("path", "nonlinearity"), ("text",))
    entry(f"{name}: readout_density", ask("readout_density"), ("a ", "readout", *NOT),
          ("list", "beyond") if name in ("finite P", "linear") else ())  # fmt: skip
    entry(f"{name}: by_activation", ask("by_activation"), ("counts",), ("list",))
    entry(f"{name}: sample_neurons", ask("sample_neurons"), ("n ", "infinity"))
    entry(f"{name}: sample_neurons.rng", lambda v, p=name: posterior(p).sample_neurons(5, rng=v),
          ("rng", "infinity"), () if name == "deep codes" else ("None", "huge"))  # fmt: skip
    if of_data:
        entry(f"{name}: kernel", ask("kernel"), ("inputs",), ("None",))
        entry(f"{name}: predict", ask("predict"), ("inputs",), ("None",))
        entry(f"{name}: predict_class", ask("predict_class"), ("inputs",), ("None",))
        entry(f"{name}: predict.variance", ask("predict", X, width=9), "variance", ("true", "NumPy true"))
        free = ("None", "inf") if name.startswith("lazy") else ("inf",)
        entry(f"{name}: predict.width", lambda v, p=name: posterior(p).predict(X, True, width=v), "width", free)
        entry(f"{name}: generalization_error.Y", ask("generalization_error", X), ("targets", "class", "labels"))
        entry(f"{name}: kernel.layer", lambda v, p=name: posterior(p).kernel(layer=v), "layer", ("None",))
        code = ("None",) if name.startswith("general") else ()
        entry(f"{name}: code_activations", ask("code_activations"), ("inputs", *NOT), code)
        entry(f"{name}: frozen", ask("frozen"), ("fractions", *NOT, "numbers", "is a code"), code)
    else:
        entry(f"{name}: kernel.layer", ask("kernel"), "layer")
        entry(f"{name}: kernel.matrix", lambda v, p=name: posterior(p).kernel().matrix(v), "labels")
        entry(f"{name}: frozen", ask("frozen"), ("fractions", "infinity", "finite n_samples", *NOT),
              ("list",) if "finite" in name else ())  # fmt: skip
        entry(f"{name}: predict", ask("predict"), "prediction")
        entry(f"{name}: sample_neurons.samples_per_class",
              lambda v, p=name: posterior(p).sample_neurons(5, samples_per_class=v),
              ("samples_per_class", "infinity"), () if deep else ("None",))  # fmt: skip
    density = ("code", "class", "readout", "grid", "Gaussian", "infinity", *NOT)
    for method in ("preactivation_density", "activation_density"):
        where = () if of_data or deep else GRID
        entry(f"{name}: {method}.grid", ask(method, None, 0), density, where)
        entry(f"{name}: {method}.class", lambda v, p=name, m=method: getattr(posterior(p), m)(None, v, [0.5]), density,
              () if of_data or deep else ("text",))  # fmt: skip

# ---- sampling, sweeps, data ----------------------------------------------------------------------

for name in ("network", "task", "width", "tau", "draws", "warmup", "chains", "thin", "start", "inputs", "rng",
             "length", "target_acceptance", "executor", "progress", "checkpoint"):  # fmt: skip
    takes = {"inputs": ("None",), "rng": ("None", "huge"), "executor": ("None",), "checkpoint": ("None", "text"),
             "progress": ("None", "true", "NumPy true")}  # fmt: skip

    def run(v, n=name):
        given = {"network": network(), "task": two(n_samples=20), "width": 5, "tau": 0.1, **FEW}
        return mf.sample(**given | {n: v})

    wanted = (name, "Network", "class task") if name in ("network", "task", "inputs") else name
    entry(f"sample.{name}", run, wanted, takes.get(name, ()))
entry("summarize", mf.summarize, "chains")
entry("compare.chains", lambda v: mf.compare(posterior("finite P"), v), "chains")
entry("compare.posterior", lambda v: mf.compare(v, chains()), "posterior")
entry("drift", mf.drift, "chains")
entry("finite_size_trend", mf.finite_size_trend, ("comparisons", "a trend needs"))
entry("Chains.activations.layer", lambda v: chains().activations(v), "layer")
entry("Chains.activations.at", lambda v: chains().activations(at=v), "at")
entry("sweep.network", lambda v: mf.sweep(v, two(), off=[0, 0.1]), "Network")
entry("sweep.task", lambda v: mf.sweep(network(), v, off=[0, 0.1]), "ClassTask")
for name in ("off", "sigma_w", "n_samples", "fractions", "colour"):
    axes = {"off": ("list", "array"), "sigma_w": ("list", "array"), "n_samples": ("inf", "float16 infinity")}
    entry(f"sweep.{name}", lambda v, n=name: mf.sweep(network(), two(), **{n: v}),
          (name, "parameter", "target", "covers"), axes.get(name, ()))  # fmt: skip
for name in ("executor", "progress", "checkpoint", "tau"):
    takes = {"executor": ("None",), "progress": ("None", "true", "NumPy true"), "checkpoint": ("None", "text"),
             "tau": ("list", "array")}  # fmt: skip
    entry(f"sweep, {name}", lambda v, n=name: mf.sweep(network(), two(), off=[0, 0.1], **{n: v}), name, takes[name])
for name in ("mnist", "fashion_mnist", "cifar10"):
    free = ("None",) if name == "mnist" else ()
    entry(f"datasets.{name}", getattr(mf.datasets, name), ("path", "does not exist"), free)
    entry(f"datasets.{name}.part", lambda v, n=name: getattr(mf.datasets, n)(".", v), ("part", "no "))
for name in ("load_idx", "load_npz", "load_cifar"):
    if hasattr(mf.datasets, name):
        entry(f"datasets.{name}", getattr(mf.datasets, name), ("path", "no file"))
entry("ImageSet.images", lambda v: mf.datasets.ImageSet(v, ["a", "b"]), "images")
entry("ImageSet.labels", lambda v: mf.datasets.ImageSet(np.ones((2, 3, 3)), v), "labels", ("list",))
entry("ImageSet.split", lambda v: images().split(v), "n_train")
entry("ImageSet.split.rng", lambda v: images().split(4, rng=v), "rng", ("None", "huge"))
entry("ImageSet.classes", lambda v: images().classes(v), "class")

# ---- estimators ----------------------------------------------------------------------------------

TYPE_ERRORS = set()  # entries that may answer with a TypeError: conventions of scikit-learn ask for it
VALUES = np.arange(12.0)


@cache
def fitted(kind):
    return kind().fit(X, LABELS if kind is NonLazyClassifier else VALUES)


for kind in (NonLazyClassifier, NonLazyRegressor):
    name, y = kind.__name__, LABELS if kind is NonLazyClassifier else VALUES
    for given, takes in {"activation": ("symbol",), "depth": (), "sigma_a": (), "sigma_w": (), "tau": (),
                         "lazy": ("true", "NumPy true"), "center": ("true", "NumPy true"), "scale": ("None",),
                         "on_failure": (), "on": (), "off": ()}.items():  # fmt: skip
        if given not in ("on", "off") or kind is NonLazyClassifier:
            entry(f"{name}.{given}", lambda v, k=kind, n=given, y=y: k(**{n: v}).fit(X, y),
                  NO_KIND if given == "activation" else given, takes)  # fmt: skip
    entry(f"{name}.fit.X", lambda v, k=kind: k().fit(v, [0.0, 1.0]), "X", ("list", "beyond"))
    entry(f"{name}.fit.y", lambda v, k=kind: k().fit([[1.0, 0], [0, 1.0]], v), ("y", "class"),
          ("list", "bytes array") if kind is NonLazyClassifier else ("list", "beyond"))  # fmt: skip
    entry(f"{name}.predict", lambda v, k=kind: fitted(k).predict(v), "X")
    entry(f"{name}.score", lambda v, k=kind, y=y: fitted(k).score(v, y), "X")
    TYPE_ERRORS.update({f"{name}.fit.X", f"{name}.fit.y", f"{name}.predict", f"{name}.score"})
entry("NonLazyClassifier.decision_function", lambda v: fitted(NonLazyClassifier).decision_function(v), "X")
TYPE_ERRORS.add("NonLazyClassifier.decision_function")

# ---- pictures ------------------------------------------------------------------------------------

for name in ("plot_readout_posterior", "plot_activation_map", "plot_kernel", "plot_weights", "plot_phases"):
    entry(f"plot.{name}", lambda v, n=name: getattr(mf.plot, n)(v), "must be a")
for name in ("plot_image_codes", "plot_data_kernel", "plot_hard_images"):
    entry(f"plot_data.{name}", lambda v, n=name: getattr(mf.plot_data, n)(v), "must be a")
for name in ("plot_trajectory", "plot_factors", "plot_anchors", "plot_separability"):
    entry(f"geometry.{name}", lambda v, n=name: getattr(mf.geometry, n)(v), "must be a")
