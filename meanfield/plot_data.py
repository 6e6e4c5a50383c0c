"""Pictures of data tasks, under the name of their first version; they live in `meanfield.plot.data_tasks`."""

from __future__ import annotations

from meanfield.plot.data_tasks import (
    figure_kernels,
    figure_predictor,
    plot_data_kernel,
    plot_errors,
    plot_hard_images,
    plot_image_codes,
    plot_predictor,
)

__all__ = [
    "figure_kernels",
    "figure_predictor",
    "plot_data_kernel",
    "plot_errors",
    "plot_hard_images",
    "plot_image_codes",
    "plot_predictor",
]
