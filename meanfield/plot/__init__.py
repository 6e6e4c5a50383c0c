"""Pictures of posteriors on class tasks, and what all pictures share; other pictures have their own modules."""

from __future__ import annotations

from meanfield.plot.class_tasks import plot_activation_map, plot_kernel, plot_readout_posterior
from meanfield.plot.deep import figure_layers, plot_branches, plot_sharpening
from meanfield.plot.diagrams import figure_phase_diagram, plot_phases, plot_weights
from meanfield.plot.style import MAP, PALETTE, axes_or_new, group_centres, save_figure, side_legend, styled, symbol

__all__ = [
    "MAP",
    "PALETTE",
    "axes_or_new",
    "figure_layers",
    "figure_phase_diagram",
    "group_centres",
    "plot_activation_map",
    "plot_branches",
    "plot_kernel",
    "plot_phases",
    "plot_readout_posterior",
    "plot_sharpening",
    "plot_weights",
    "save_figure",
    "side_legend",
    "styled",
    "symbol",
]
