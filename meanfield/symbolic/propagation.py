"""Expectation propagation of one sample, derived from quadratic exponents, and printed as Numba source.

A Gaussian is an exponent -A z^2 / 2 + B z + C: products add exponents, ln of the integral is ln(2 pi / A) / 2 +
B^2 / 2 A + C. Everything below follows from these two rules; `meanfield.equations` shows it and compiled code runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sympy as sp

from meanfield.symbolic.loops import printed_number

__all__ = ["SiteSymbols", "propagation_source", "site_equations"]

z = sp.Symbol("z", real=True)


class SiteSymbols(NamedTuple):
    """Symbols of one sample: its marginal, cavity, tilted law and site exp(-precision z^2 / 2 + linear z)."""

    mean: sp.Symbol
    variance: sp.Symbol
    cavity_mean: sp.Symbol
    cavity_variance: sp.Symbol
    precision: sp.Symbol
    linear: sp.Symbol


_SITE = SiteSymbols(
    *(
        sp.Symbol(name, real=True, positive=True if "variance" in name else None)
        for name in ("mean", "variance", "cavity_mean", "cavity_variance", "precision", "linear")
    )
)


def gaussian(mean: sp.Expr, variance: sp.Expr, x: sp.Symbol = z) -> sp.Expr:
    """ln N(x; mean, variance)."""
    return -((x - mean) ** 2) / (2 * variance) - sp.log(2 * sp.pi * variance) / 2


def natural(exponent: sp.Expr, x: sp.Symbol = z) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """A, B and C of an exponent -A x^2 / 2 + B x + C."""
    parts = sp.Poly(sp.expand(exponent), x)
    if parts.degree() > 2:
        raise ValueError(f"{exponent} is not quadratic in {x}")
    return -2 * parts.coeff_monomial(x**2), parts.coeff_monomial(x), parts.coeff_monomial(1)


def log_integral(exponent: sp.Expr, x: sp.Symbol = z) -> sp.Expr:
    """ln of the integral of exp(exponent) over x."""
    a, b, c = natural(exponent, x)
    return sp.log(2 * sp.pi / a) / 2 + b**2 / (2 * a) + c


def _checked(shown: sp.Expr, derived: sp.Expr) -> sp.Expr:
    """A form that loses no digits, which has to be what was derived."""
    if sp.simplify(sp.expand_log(sp.expand(shown - derived), force=True)) != 0:
        raise ValueError(f"{shown} is not {derived}")
    return shown


class SiteEquations(NamedTuple):
    """One sample of expectation propagation, in the symbols of a `SiteSymbols`."""

    cavity_variance: sp.Expr
    cavity_mean: sp.Expr
    share: sp.Expr  # of the site: ln of the integral of cavity times site, which the tilted normalisation replaces
    precision: sp.Expr  # that makes cavity times site have given moments, here those named `mean` and `variance`
    linear: sp.Expr


def site_equations(site: SiteSymbols = _SITE) -> SiteEquations:
    """Cavity, share of log Z and new site."""
    marginal = natural(gaussian(site.mean, site.variance))
    cavity = natural(gaussian(site.cavity_mean, site.cavity_variance))
    without = marginal[0] - site.precision, marginal[1] - site.linear  # marginal / site
    # Cavity times site is the marginal up to a factor: its exponent has the marginal's A and B, and the cavity's C.
    product = -marginal[0] * z**2 / 2 + marginal[1] * z + cavity[2]
    return SiteEquations(
        cavity_variance=sp.together(1 / without[0]),
        cavity_mean=site.cavity_variance * without[1],
        share=_checked(
            sp.log(site.variance / site.cavity_variance) / 2
            + site.mean**2 / (2 * site.variance)
            - site.cavity_mean**2 / (2 * site.cavity_variance),
            log_integral(product),
        ),
        precision=marginal[0] - cavity[0],
        linear=marginal[1] - cavity[1],
    )


# ---- source ------------------------------------------------------------------------------------


def _piece() -> tuple[sp.Expr, sp.Expr]:
    """Mean of N(z; mean, variance) exp(k (intercept + slope z)), relative to `mean`, and ln of its integral."""
    mean, variance = _SITE.mean, _SITE.variance
    k, intercept, slope, shift = sp.symbols("k intercept slope shift", real=True)
    exponent = gaussian(mean, variance) + k * (intercept + slope * z)
    a, b, _ = natural(exponent)
    moved = _checked(k * slope * variance, b / a - mean)
    height = k * (intercept + slope * (mean + shift / 2))
    _checked(height.subs(shift, moved), log_integral(exponent))
    return moved, height


def _joint() -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """Slope of kappa in z, its variance given z, and ln E[exp(kappa f) | z], kappa and z Gaussian in the cavity."""
    c00, c01, variance = sp.symbols("kappa_variance covariance variance", positive=True)
    mean, slope, x, f, kappa = sp.symbols("kappa_mean slope x f kappa", real=True)
    rest = sp.Symbol("rest", positive=True)
    precision = sp.Matrix([[c00, c01], [c01, variance]]).inv()
    by_z = _checked(c01 / variance, -precision[0, 1] / precision[0, 0])
    left = c00 - slope * c01
    _checked(left.subs(slope, by_z), 1 / precision[0, 0])
    exponent = gaussian(mean + slope * x, rest, kappa) + kappa * f
    return by_z, left, _checked((mean + slope * x + rest * f / 2) * f, log_integral(exponent, kappa))


def _kink() -> sp.Expr:
    """Share of one end of a linear piece in d2/dmean2 of E phi, over the density there; x = (end - mean) / sd."""
    mean, end, turn, jump, x = sp.symbols("mean end turn jump x", real=True)
    sd = sp.Symbol("sd", positive=True)
    density = sp.exp(gaussian(mean, sd**2))
    bend = turn * sp.DiracDelta(z - end) + jump * sp.DiracDelta(z - end, 1)  # phi''
    found = sp.integrate(density * bend, (z, -sp.oo, sp.oo)) / density.subs(z, end)
    return _checked(turn + jump * x / sd, sp.simplify(found).subs(mean, end - sd * x))


_HEADER = '''"""Machine-written by ``python -m meanfield.activations.generate`` from symbolic/{origin}; do not edit.

One sample of expectation propagation: what `meanfield.equations` shows. All arguments are numbers.
"""

import math

from meanfield.numerics.jit import jit

__all__ = [{names}]
'''


def propagation_source() -> str:
    """Source of `meanfield/theories/general_data/compiled/generated/propagation.py`."""
    found, site = site_equations(), _SITE
    moved, height = _piece()
    by_z, left, exponent = _joint()
    functions = [
        (
            "cavity",
            "Mean and variance of a marginal without its site exp(-precision z^2 / 2 + linear z).",
            (site.mean, site.variance, site.precision, site.linear),
            {"cavity_variance": found.cavity_variance, "cavity_mean": found.cavity_mean},
            ("cavity_mean", "cavity_variance"),
        ),
        (
            "site_share",
            "ln of the integral of cavity times site, from the moments of their product and of the cavity.",
            (site.mean, site.variance, site.cavity_mean, site.cavity_variance),
            {"share": found.share},
            ("share",),
        ),
        (
            "matching_site",
            "Precision and linear term of the site that gives cavity times site this mean and variance.",
            (site.mean, site.variance, site.cavity_mean, site.cavity_variance),
            {"precision": found.precision, "linear": found.linear},
            ("precision", "linear"),
        ),
        (
            "tilted_piece",
            "Shift of the mean, and height: N(z; mean, variance) e^{k (intercept + slope z)} = e^height N(z; mean + "
            "shift, variance).",
            sp.symbols("k intercept slope mean variance"),
            {"shift": moved, "height": height},
            ("shift", "height"),
        ),
        (
            "given_preactivation",
            "Slope of kappa in z and variance of kappa given z, from the covariance of (kappa, z).",
            sp.symbols("kappa_variance covariance variance"),
            {"slope": by_z, "rest": left},
            ("slope", "rest"),
        ),
        (
            "joint_exponent",
            "ln E[e^{kappa f} | z], x = z minus its mean.",
            sp.symbols("kappa_mean slope rest x f"),
            {"exponent": exponent},
            ("exponent",),
        ),
        (
            "kink_curvature",
            "Share of an end of a linear piece in d2/dmean2 of E phi, over the density there; x = (end - mean) / sd.",
            sp.symbols("turn jump x sd"),
            {"curvature": _kink()},
            ("curvature",),
        ),
    ]
    names = "".join(f'\n    "{name}",' for name, *_ in functions) + "\n"
    return _HEADER.format(origin="propagation.py", names=names) + "".join(f"\n\n{_function(*f)}" for f in functions)


def _function(
    name: str, summary: str, arguments: Sequence[sp.Symbol], steps: dict[str, sp.Expr], results: Sequence[str]
) -> str:
    body = [f"    {target} = {printed_number(value)}\n" for target, value in steps.items()]
    head = f'@jit\ndef {name}({", ".join(map(str, arguments))}):\n    """{summary}"""\n'
    return f"{head}{''.join(body)}    return {', '.join(results)}\n"
