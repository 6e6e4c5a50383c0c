"""Pictures of sampled networks, under the name of their first version; they live in `meanfield.plot.sampling`."""

from __future__ import annotations

from meanfield.plot.sampling import (
    figure_comparison,
    figure_drift,
    figure_trend,
    plot_readouts,
    plot_scores,
    plot_values,
)

__all__ = [
    "figure_comparison",
    "figure_drift",
    "figure_trend",
    "plot_readouts",
    "plot_scores",
    "plot_values",
]
