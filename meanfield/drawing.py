"""Plots by name: results have a ``plot`` method without depending on the plots, which depend on them."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["drawn"]


def drawn(name: str, *args: Any, **options: Any) -> Any:
    """What the function of that name in the plot package returns; Matplotlib is loaded only then."""
    module, function = name.rsplit(".", 1)
    return getattr(importlib.import_module(f"meanfield.plot.{module}"), function)(*args, **options)
